//! (head)

pub mod certificate_files;
pub mod certificates;
