//! stub
#[derive(Debug, clap::Args)]
pub struct Options {}
pub async fn run(_o: Options) -> anyhow::Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
