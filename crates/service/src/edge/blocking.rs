//! Large requests are decoded and answered where they hold up no other task: a runtime thread that decodes a megabyte answers no
//! probe meanwhile, and there are only as many threads as cores.

use tokio::runtime::{Handle, RuntimeFlavor};

/// From this size on a request is large: decoding it takes about a millisecond.
pub(super) const LARGE_BYTES: usize = 64 << 10;

/// Runs `work` on this thread; if it is large, tokio first moves the tasks that wait for this worker to another one.
pub(super) fn run_blocking<T>(large: bool, work: impl FnOnce() -> T) -> T {
    let flavor = || Handle::try_current().map(|it| it.runtime_flavor());
    match large && flavor().is_ok_and(|it| it == RuntimeFlavor::MultiThread) {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}
