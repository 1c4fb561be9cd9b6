//! What serves: a replica's loader beside a log in memory.

mod deployments;
mod loading;
mod lookup;
mod replica;
mod swaps;
