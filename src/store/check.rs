//! What `citygate check` says of the store: whether the database can be used, and what a start would make and change there.
//!
//! Nothing is changed. Only a configuration that names a database is looked at.

use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::database::{self, Database, SCHEMA};
use super::error::Error;
use super::{sql_folder, tables};
use crate::catalogue::Definition;

/// Older servers lack what is needed to attach partitions beside those who read.
const VERSION_MIN: i32 = 140_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    pub errors: Vec<Error>,
    pub warnings: Vec<String>,
    pub ok: Vec<String>,
}

/// Looks at the database, if there is one.
pub async fn findings(config: &Config, kinds: &[Definition]) -> Findings {
    let mut findings = Findings::default();
    if !config.is_enabled() {
        return findings;
    }
    let database = match Database::new(config, TaskTracker::new()) {
        Ok(database) => database,
        Err(error) => {
            findings.errors.push(error.into());
            return findings;
        }
    };
    if database.may_be_plain() {
        findings
            .warnings
            .push(format!("store.database_url: {}", database::MAY_BE_PLAIN));
    }
    match sql_folder::read(&config.sql_folder) {
        Ok(sql) => match sql.warning(&config.sql_folder) {
            Some(warning) => findings.warnings.push(warning),
            None => findings.ok.push(format!(
                "store: {} SQL files and {} jobs in {}",
                sql.files.len(),
                sql.jobs.len(),
                config.sql_folder.display()
            )),
        },
        Err(error) => findings.errors.push(error.into()),
    }
    if let Err(error) = look(&database, kinds, &mut findings).await {
        findings.errors.push(error);
    }
    findings
}

async fn look(database: &Database, kinds: &[Definition], findings: &mut Findings) -> Result<(), Error> {
    let client = database.connect().await?;
    let refused = |error| database.error("a look at it", error);
    let (version, number) = version(&client).await.map_err(refused)?;
    let place = database.place();
    if number < VERSION_MIN {
        let why = format!("it is version {version}; the store needs 14 or later");
        return Err(Error::Unfit(format!("postgresql at {place}: {why}")));
    }
    findings.ok.push(format!("store: postgresql {version} at {place}"));
    if !may_create(&client).await.map_err(refused)? {
        let why = format!("this user may not create tables in the schema {SCHEMA}");
        return Err(Error::Unfit(format!(
            "postgresql at {place}: {why}; give it the right: grant create on database, or on schema {SCHEMA}, to it"
        )));
    }
    let (lines, errors) = tables::outlook(&client, kinds).await.map_err(refused)?;
    findings
        .ok
        .extend(lines.into_iter().map(|line| format!("store: {line}")));
    findings
        .errors
        .extend(errors.into_iter().map(|error| Error::Tables(vec![error])));
    Ok(())
}

async fn version(client: &Client) -> Result<(String, i32), tokio_postgres::Error> {
    let ask = "select current_setting('server_version'), current_setting('server_version_num')::int";
    let row = client.query_one(ask, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

async fn may_create(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let ask = format!(
        "select case when exists (select from pg_catalog.pg_namespace where nspname = '{SCHEMA}') \
         then has_schema_privilege('{SCHEMA}', 'create') else has_database_privilege(current_database(), 'create') end"
    );
    Ok(client.query_one(&ask, &[]).await?.get(0))
}
