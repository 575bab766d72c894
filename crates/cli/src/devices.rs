use crate::Outcome;

/// List the devices that can compute.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let threads = rayon::current_num_threads();
    let level = halation_compute::CpuLevel::current().name();
    if args.json {
        println!("{}", serde_json::json!({ "devices": [{ "name": "cpu", "threads": threads, "level": level }] }));
    } else {
        println!("cpu     {threads} threads, {level}");
        println!("cuda    not supported by this version: everything runs on the CPU");
    }
    Ok(Outcome::Done)
}
