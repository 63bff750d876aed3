//! The journal's promises, from the outside: what survives, what is refused, what is bounded.

mod basics;
