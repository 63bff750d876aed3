//! Goes into the copy of the crate that `orderings.sh` makes, as the module `weaken`: one ordering of that copy, chosen
//! by the environment when a model starts, is weaker than the source says.
//!
//! All of them in one binary, so that trying one costs a run and no compilation. `WRITEBACK_WEAKEN=7=Relaxed`: the seventh
//! site; `7=-`: the fence there is left out. With `WRITEBACK_SITES` each site says once that it was passed.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

const MOST: usize = 1024;

struct Plan {
    site: usize,
    /// `None`: the fence goes.
    order: Option<Ordering>,
    tells: bool,
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let (site, order) = match std::env::var("WRITEBACK_WEAKEN") {
            Err(_) => (usize::MAX, None),
            Ok(text) => {
                let (site, order) = text.split_once('=').expect("site=ordering");
                let order = match order {
                    "Relaxed" => Some(Ordering::Relaxed),
                    "Acquire" => Some(Ordering::Acquire),
                    "Release" => Some(Ordering::Release),
                    "AcqRel" => Some(Ordering::AcqRel),
                    "-" => None,
                    _ => panic!("no such ordering: {order}"),
                };
                (site.parse().expect("the number of a site"), order)
            }
        };
        Plan { site, order, tells: std::env::var_os("WRITEBACK_SITES").is_some() }
    })
}

fn pass(site: usize, plan: &Plan) {
    static PASSED: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];
    if plan.tells && !PASSED[site].swap(true, Ordering::Relaxed) {
        println!("passed site {site}");
    }
}

/// The ordering of this site.
pub(crate) fn order(site: usize, order: Ordering) -> Ordering {
    let plan = plan();
    pass(site, plan);
    if plan.site == site { plan.order.expect("only a fence can be left out") } else { order }
}

/// The fence of this site.
pub(crate) fn fence(site: usize, order: Ordering) {
    let plan = plan();
    pass(site, plan);
    if plan.site != site {
        loom::sync::atomic::fence(order);
    } else if let Some(order) = plan.order {
        loom::sync::atomic::fence(order);
    }
}
