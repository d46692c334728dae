//! The admin API over a real listener, on a real catalogue, with registered sessions standing in for clients.

mod changes;
mod compatible;
mod openapi;
mod service;
mod world;

pub(crate) use self::world::{ADMIN_KEY, World};
