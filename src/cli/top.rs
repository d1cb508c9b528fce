//! `megasock top`: what a running server does, once a second, in a terminal.
//!
//! It reads `/api/info` of the admin listener, as the dashboard does. On a terminal one screen is drawn in place until `q` or
//! Ctrl-C; elsewhere, and on a terminal that cannot draw, each second is a line. `--once` prints one screen and ends: for
//! scripts, whose exit code says whether the server answers.

mod fetch;
mod screen;

use super::{complain, failed};
use crate::config::Config;
use crate::sys::terminal::{self, Keys};
use clap::{Arg, ArgAction, ArgMatches, Command};
use crossbeam_channel::{RecvError, Sender};
use fetch::Source;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// Columns and rows where there is no terminal to ask.
const SIZE: (usize, usize) = (100, usize::MAX);

/// The command and what it takes.
pub(super) fn command() -> Command {
    Command::new("top")
        .about("Show what a running server does, once a second; q ends it")
        .after_help(
            "The server is found by --admin-listen, and its key by --admin-key-file, as it was started with.",
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("Admin listener of another server, such as http://10.0.0.7:9090"),
        )
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("Print one screen and end"))
}

/// Shows a server until told to end.
pub(super) fn run(config: &Config, matches: &ArgMatches) -> ExitCode {
    let source = match Source::new(config, matches.get_one::<String>("url").map(String::as_str)) {
        Ok(source) => source,
        Err(problem) => return failed(problem),
    };
    // Whatever keeps it from being seen at all is told at once.
    let first = match source.info() {
        Ok(info) => info,
        Err(problem) => return failed(problem),
    };
    let draws = can_draw();
    let colour = draws && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let shown = if matches.get_flag("once") {
        print(&screen::screen(&first, size().0, colour).join("\n"))
    } else if draws {
        redraw(source, first, colour)
    } else {
        follow(&source, first)
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the lines has enough of them.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(format!("cannot write to standard output: {error}")),
    }
}

/// Whether standard output is a terminal that knows escapes; one that is `dumb`, or of no kind, would show them.
fn can_draw() -> bool {
    let kind = std::env::var_os("TERM").unwrap_or_default();
    io::stdout().is_terminal() && !kind.is_empty() && kind != "dumb"
}

fn size() -> (usize, usize) {
    terminal::size().unwrap_or(SIZE)
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A line a second, until a signal or the end of who reads them.
fn follow(source: &Source, first: Value) -> io::Result<()> {
    print(&screen::line(&first))?;
    loop {
        thread::sleep(EVERY);
        match source.info() {
            Ok(info) => print(&screen::line(&info))?,
            Err(problem) => complain(problem),
        }
    }
}

/// What ends or redraws a screen.
enum Told {
    Answer(Result<Value, String>),
    Key(u8),
    Signal(i32),
}

/// The screen of a program that draws in place; gives the terminal back as it was.
struct Canvas {
    _keys: Option<Keys>,
}

impl Canvas {
    fn take() -> io::Result<Canvas> {
        let canvas = Canvas { _keys: Keys::read_singly()? };
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(canvas)
    }

    /// As many lines as fit above the last one, which is always there: it says whether the others are of now.
    fn draw(&self, lines: &[String], last: &str, rows: usize) -> io::Result<()> {
        // Erased before it is written: behind the last column, erasing takes what stands there.
        let line = |line: &String| format!("\x1b[K{line}\r\n");
        let above: String = lines.iter().take(rows.saturating_sub(1)).map(line).collect();
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H{above}\x1b[J{last}")?;
        out.flush()
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush()); // a terminal that has gone needs it no more
    }
}

/// One screen, drawn in place.
fn redraw(source: Source, first: Value, colour: bool) -> io::Result<()> {
    let (tell, told) = crossbeam_channel::unbounded();
    watch_signals(tell.clone())?;
    watch_keys(tell.clone());
    watch_server(source, tell);
    let canvas = Canvas::take()?;
    let (mut info, mut problem) = (first, None);
    loop {
        let (columns, rows) = size();
        let mut lines = screen::screen(&info, columns, colour);
        lines.push(String::new());
        canvas.draw(&lines, &screen::status(problem.as_deref(), columns, colour), rows)?;
        match told.recv() {
            Ok(Told::Answer(Ok(newer))) => (info, problem) = (newer, None),
            Ok(Told::Answer(Err(newer))) => problem = Some(newer),
            Ok(Told::Key(b'q' | b'Q')) | Err(RecvError) => return Ok(()),
            Ok(Told::Key(_) | Told::Signal(SIGWINCH)) => {}
            Ok(Told::Signal(_)) => return Ok(()),
        }
    }
}

/// Asks each second, on a thread of its own: a server that does not answer must not keep `q` waiting.
fn watch_server(source: Source, tell: Sender<Told>) {
    thread::spawn(move || {
        loop {
            thread::sleep(EVERY);
            if tell.send(Told::Answer(source.info())).is_err() {
                return;
            }
        }
    });
}

fn watch_signals(tell: Sender<Told>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGWINCH])?;
    thread::spawn(move || signals.forever().try_for_each(|signal| tell.send(Told::Signal(signal))));
    Ok(())
}

fn watch_keys(tell: Sender<Told>) {
    thread::spawn(move || {
        let mut keys = io::stdin().lock().bytes();
        while let Some(Ok(key)) = keys.next() {
            if tell.send(Told::Key(key)).is_err() {
                return;
            }
        }
    });
}
