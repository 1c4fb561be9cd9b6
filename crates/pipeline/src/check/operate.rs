//! How a pipeline is operated: `[operate]`, the half of the file that no hash knows.

use super::duration;
use crate::error::Error;
use crate::keys;
use crate::spec::Operate;
use crate::table::Table;

/// Reads the table, and what stood at the top of the file before there was one.
pub(super) fn read(root: &mut Table<'_>) -> Result<Operate, Error> {
    let before = root.take("latency_objective");
    let Some(table) = root.take("operate") else {
        return Ok(Operate {
            latency_objective_ms: before.map(duration).transpose()?,
        });
    };
    let mut table = table.table(&keys::OPERATE)?;
    let objective = match (table.take("latency_objective"), before) {
        (Some(_), Some(before)) => {
            let fix = "keep the one in [operate]";
            return Err(before
                .spot
                .error("is set twice, here and in [operate]", fix));
        }
        (within, before) => within.or(before),
    };
    Ok(Operate {
        latency_objective_ms: objective.map(duration).transpose()?,
    })
}
