//! Controls of these tests.

#[path = "../controls/mod.rs"]
#[allow(dead_code, reason = "each binary has some of them")]
mod all;

#[test]
fn every_rule_that_is_left_out_is_noticed() {
    all::run(all::CONTRACT);
}

#[test]
fn every_rule_has_a_control() {
    all::none_is_missing();
}
