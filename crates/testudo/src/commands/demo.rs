//! `testudo demo`: a whole sample mesh, its users and its attackers, on this machine.

mod live;
mod once;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::commands::identity::write_secret;
use crate::commands::up::Stop;
use crate::commands::{block_on, check};
use crate::demo::attack::{Edge, Scene};
use crate::demo::bare::{Bare, shop_program};
use crate::demo::board::{Board, Figures};
use crate::demo::bundle;
use crate::demo::people::{ADMINISTRATOR, CUSTOMERS, People};
use crate::demo::traffic::Traffic;
use crate::failure::{Failure, NO, OrFail as _};
use crate::mesh::{Mesh, MeshOptions, Paths, dashboard_link};
use crate::site::ControlFile;
use crate::terminal::Format;

/// Honest requests a second.
const LIVE_RATE: u32 = 100;
const ONCE_RATE: u32 = 40;
/// `--once` ends within 40 s, whatever happens (DESIGN §12).
const ONCE_DEADLINE: Duration = Duration::from_secs(38);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Tokens on disk are for people who try things with curl.
const DISK_TOKEN_SECONDS: i64 = 12 * 3600;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the bundle here and keep it, to be looked at and edited while the demo runs
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Try every attack once, say what came of it, and end; exit 1 if an attack passes or an honest request fails
    #[arg(long)]
    once: bool,
    /// How --once prints
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    if args.output != Format::Table && !args.once {
        return Err(Failure::usage(
            "-o needs --once: a live demo has no end to print",
        ));
    }
    shop_program()?;
    let folder = Folder::open(args.dir.as_deref())?;
    block_on(tokio::task::LocalSet::new().run_until(show(&args, &folder)))
}

async fn show(args: &Args, folder: &Folder) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let mut stop = Stop::new()?;
    let people = Rc::new(People::new()?);
    bundle::write(&folder.path, &people.issuer.jwks().to_string())?;
    let checked = check::load(&folder.path)?;
    let Some(config) = checked.config() else {
        checked.print_table()?;
        return Ok(ExitCode::from(NO));
    };
    let paths = Paths::new(&folder.path);
    let options = MeshOptions {
        dir: folder.path.clone(),
        sidecar_threads: Some(1),
        gateway_threads: Some(1),
        log: "warn".to_owned(),
    };
    let mesh = tokio::select! {
        mesh = Mesh::start(options, config) => mesh?,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    };
    let stage = Stage::set(mesh, &paths, people, begun).await;
    let (mesh, bare, code) = match stage {
        Err((mesh, failure)) => {
            mesh.stop().await;
            return Err(failure);
        }
        Ok(stage) => {
            let code = if args.once {
                once::play(&stage, args.output, &mut stop).await
            } else {
                live::play(&stage, &mut stop).await
            };
            (stage.mesh, stage.bare, code)
        }
    };
    let stopping = async { tokio::join!(mesh.stop(), bare.stop()) };
    let left = match args.once {
        true => ONCE_DEADLINE
            .saturating_sub(begun.elapsed())
            .max(Duration::from_secs(1)),
        false => STOP_DEADLINE,
    };
    // What has not stopped by then is killed when it is dropped.
    let _ = tokio::time::timeout(left, stopping).await;
    code
}

/// Everything that runs.
struct Stage {
    mesh: Mesh,
    bare: Bare,
    people: Rc<People>,
    edge: Edge,
    begun: Instant,
    took: Duration,
}

impl Stage {
    async fn set(
        mesh: Mesh,
        paths: &Paths,
        people: Rc<People>,
        begun: Instant,
    ) -> Result<Stage, (Mesh, Failure)> {
        let prepare = async {
            write_tokens(paths, &people)?;
            let edge = Edge::of(&mesh)?;
            Ok((edge, Bare::start(paths).await?))
        };
        match prepare.await {
            Ok((edge, bare)) => Ok(Stage {
                mesh,
                bare,
                people,
                edge,
                begun,
                took: begun.elapsed(),
            }),
            Err(failure) => Err((mesh, failure)),
        }
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            mesh: &self.mesh,
            bare: &self.bare,
            people: &self.people,
            edge: self.edge.clone(),
        }
    }

    fn traffic(&self, rate: u32) -> Traffic {
        Traffic::start(&self.edge, &self.people, rate)
    }

    async fn board(&self) -> Board {
        let proxies = self
            .mesh
            .plan
            .workloads
            .iter()
            .filter(|workload| workload.sidecar)
            .count();
        let proxies = proxies + usize::from(self.mesh.plan.gateway.is_some());
        let mut board = Board::new(self.mesh.plan.trust_domain.clone(), proxies, self.took);
        board.revision = self.mesh.revision().await.unwrap_or(0);
        board.dir = self.mesh.paths.dir.display().to_string();
        if let Ok(control) = ControlFile::read(&self.mesh.paths.state) {
            board.link = dashboard_link(&control.api, &self.mesh.paths.state).unwrap_or_default();
        }
        board
    }

    fn figures(&self, traffic: &Traffic, ours: Option<Duration>) -> Figures {
        let honest = traffic.honest.borrow();
        Figures {
            sent: honest.sent,
            answered: honest.answered,
            denied: honest.denied,
            failed: honest.failed,
            p99: honest.p99(),
            ours,
        }
    }
}

/// Tokens for people who try things with curl: `.testudo/tokens/NAME.jwt`, private as all of the state.
fn write_tokens(paths: &Paths, people: &People) -> Result<(), Failure> {
    let folder = paths.state.join("tokens");
    std::fs::create_dir_all(&folder).or_fail(|| format!("cannot make {}", folder.display()))?;
    for user in CUSTOMERS
        .iter()
        .copied()
        .chain([ADMINISTRATOR, "bob", "mallory"])
    {
        let token = people.issuer.token(user, DISK_TOKEN_SECONDS)?;
        write_secret(&folder.join(format!("{user}.jwt")), token.as_bytes())?;
    }
    Ok(())
}

/// The bundle's folder; one of our own goes away with the demo.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn open(dir: Option<&Path>) -> Result<Folder, Failure> {
        let (path, temporary) = match dir {
            Some(dir) => (dir.to_owned(), false),
            None => (
                std::env::temp_dir().join(format!("testudo-demo-{:08x}", rand::random::<u32>())),
                true,
            ),
        };
        // An own folder must be new: nobody else can have put anything into it.
        let made = std::fs::DirBuilder::new()
            .recursive(!temporary)
            .mode(0o700)
            .create(&path);
        made.or_fail(|| format!("cannot make {}", path.display()))?;
        let path =
            std::fs::canonicalize(&path).or_fail(|| format!("cannot open {}", path.display()))?;
        Ok(Folder { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What is left over is small and private.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
