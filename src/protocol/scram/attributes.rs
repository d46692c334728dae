//! Attributes of a SCRAM message: a letter, an equals sign and a value, with commas between them.

use super::{Malformed, ScramError};

/// What is left to read of a message.
pub(super) struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    pub(super) fn new(message: &'a str) -> Self {
        Self(Some(message))
    }

    /// The letter of the next attribute.
    pub(super) fn peek(&self) -> Option<char> {
        self.0?.chars().next()
    }

    /// The value of the next attribute, which must be the one called `letter`.
    pub(super) fn expect(&mut self, letter: char) -> Result<&'a str, ScramError> {
        match self.any()? {
            (found, value) if found == letter => Ok(value),
            _ => Err(Malformed::Attribute.into()),
        }
    }

    /// Passes over whatever extensions the other side may know of.
    pub(super) fn skip_rest(mut self) -> Result<(), ScramError> {
        while self.0.is_some() {
            self.any()?;
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), ScramError> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(Malformed::Garbage.into()),
        }
    }

    fn any(&mut self) -> Result<(char, &'a str), ScramError> {
        let rest = self.0.take().ok_or(Malformed::Attribute)?;
        let attribute = match rest.split_once(',') {
            Some((attribute, rest)) => {
                self.0 = Some(rest);
                attribute
            }
            None => rest,
        };
        let (letter, value) = attribute.split_once('=').ok_or(Malformed::Attribute)?;
        let mut letters = letter.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if letter.is_ascii_alphabetic() => Ok((letter, value)),
            _ => Err(Malformed::Attribute.into()),
        }
    }
}

/// Whether `text` may be a nonce: printable ASCII without a comma, and not nothing.
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
}
