//! `sqlx::migrate!` notices when a migration changes; this makes cargo notice when one is added.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
