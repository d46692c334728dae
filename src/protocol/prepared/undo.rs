//! What was assumed of statements, and turns out not to hold.

use std::rc::Rc;

use super::Statement;

/// What has to be taken back when the server skips a message because of an earlier error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// The pooler's own word on the unnamed statement: the backend has whatever it had.
    Unnamed,
    /// The client's Parse of the unnamed statement.
    UnnamedParse {
        /// What it would have replaced was the client's, too.
        was_own: bool,
        /// The body of the Parse that it would have replaced; `None`: it has failed itself, and so replaced it.
        before: Option<Box<[u8]>>,
    },
    /// A Parse for the backend: it does not know the statement after all, nor has the client the name, if it asked.
    Parse {
        name: Option<Box<[u8]>>,
        statement: Rc<Statement>,
    },
    /// The pooler's own Close of a statement: the backend still knows it.
    Dropped(Rc<Statement>),
    /// A Parse that the backend did not need: the client has not got the name.
    Name(Box<[u8]>),
    /// A Close: the client still has the name.
    Close {
        name: Box<[u8]>,
        statement: Rc<Statement>,
    },
}

impl Undo {
    /// Whether it says what a client's `name` means, or whether the backend knows `statement`.
    #[must_use]
    pub fn is_about(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        match self {
            Self::Parse {
                name: own,
                statement: known,
            } => {
                own.as_deref() == Some(name) || statement.is_some_and(|other| other.id == known.id)
            }
            Self::Name(own) | Self::Close { name: own, .. } => **own == *name,
            Self::Dropped(known) => statement.is_some_and(|other| other.id == known.id),
            Self::Unnamed | Self::UnnamedParse { .. } => false,
        }
    }
}
