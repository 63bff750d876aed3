//! The journal's promises, from the outside: what survives, what is refused, what is bounded.

mod acks;
mod backends;
mod basics;
mod bounds;
mod common;
mod damage;
mod disk;
mod letters;
mod opening;
mod shutdown;
mod values;
