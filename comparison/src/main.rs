mod quantile;
mod subjects;
mod turns;
mod workload;
fn main(){
    use std::time::Duration;
    let keys = 1_000_000;
    let folder = tempfile::tempdir_in(".").unwrap();
    let subjects = subjects::all(keys + keys/8, folder.path());
    for s in &subjects {
        let t = std::time::Instant::now();
        s.enter(Duration::ZERO);
        s.worker().fill(&mut (0..keys as u64).map(workload::key));
        eprintln!("{} {:?}", s.name(), t.elapsed());
        s.leave();
    }
    let zipf = workload::Zipf::new(keys as u64);
    let seqs: Vec<_> = (0..2).map(|t| zipf.keys(1<<21, t)).collect();
    for (threads, writes) in [(1,0),(1,5),(1,50),(1,100),(2,0),(2,50),(2,100)] {
        let lists: Vec<_> = seqs[..threads].iter().map(|k| workload::mixed(k, writes, 3)).collect();
        let r = turns::take(&subjects, &lists, turns::Turns{rounds: 40, slice: Duration::from_millis(5), lead: Duration::from_millis(3)});
        println!("threads {threads} writes {writes} array {:.1} M/s", quantile::median(&r.rates[0])/1e6);
        for (i,s) in subjects.iter().enumerate() {
            let ratios: Vec<f64> = r.rates[i].iter().zip(&r.rates[0]).map(|(a,b)| a/b).collect();
            println!("   {:24} {:.3} ({:.3} {:.3}) miss {:.4}", s.name(), quantile::median(&ratios), quantile::quantile(&ratios,0.1), quantile::quantile(&ratios,0.9), r.misses[i]);
        }
    }
    for s in &subjects { if let Some(a) = s.account() { println!("{a}"); } }
}
