//! The tables' migrations, by text.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Named for us, since a database may be shared with another user of sqlx.
const MIGRATIONS_TABLE: &str = "results_migrations";

/// Names and texts in order; the first is number 1.
pub(super) fn migrator(scripts: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = scripts.iter().zip(1..).map(|((name, sql), version)| {
        let kind = MigrationType::Simple;
        Migration::new(version, (*name).into(), kind, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}
