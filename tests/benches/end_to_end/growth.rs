//! How cost grows.
#[derive(Debug, clap::Args)]
pub struct Options {}
pub fn run(_options: &crate::Options, _growth: &Options) -> anyhow::Result<()> {
    Ok(())
}
