//! Taking samples of services.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::Samples;
use super::report::Figure;
use crate::arch::instr;
use crate::figures::Meter;
use crate::task;

/// How long what was printed before may take to get out of the way.
const SETTLE: Duration = Duration::from_millis(20);

/// Takes samples, with what the hypervisor counted meanwhile. Nothing is printed before the end: the console's back end
/// would take its part of the time.
pub struct Bench {
    area: &'static str,
    n: usize,
    /// What all figures from now on say of their circumstances.
    pub words: Vec<(&'static str, String)>,
    meter: Option<Meter>,
    figures: Vec<Figure>,
}

impl Bench {
    /// Begins, with `n` samples of what is fast.
    pub async fn new(area: &'static str, n: usize) -> Self {
        task::sleep(SETTLE).await;
        Self { area, n, words: Vec::new(), meter: Meter::new(), figures: Vec::new() }
    }

    /// A figure of the present circumstances.
    pub fn figure(&self, name: &str, n: u64) -> Figure {
        let figure = Figure::new(self.area, name, n);
        self.words.iter().fold(figure, |figure, (key, word)| figure.with(key, word))
    }

    /// Keeps a figure for the end.
    pub fn push(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// `share` of the samples asked for, of `work`.
    pub fn take(&mut self, name: &str, batch: usize, share: usize, mut work: impl FnMut()) {
        self.of(name, batch, share, || {
            let before = instr::rdtsc();
            work();
            instr::rdtsc() - before
        });
    }

    /// As [`Bench::take`], but `work` does the measuring.
    pub fn of(&mut self, name: &str, batch: usize, share: usize, mut work: impl FnMut() -> u64) {
        let n = (self.n / share).max(8);
        // Warm before anything is counted.
        (0..n / 10 + 1).for_each(|_| {
            work();
        });
        let before = self.meter.as_ref().and_then(Meter::read);
        let samples = Samples::of(n, &mut work);
        let counted =
            self.meter.as_ref().zip(before.as_ref()).and_then(|(meter, before)| meter.since(before));
        let mut figure = self.figure(name, n as u64);
        if batch > 1 {
            figure = figure.with("batch", batch);
        }
        self.figures.push(figure.total("ticks", samples.sum()).samples(&samples).counted(counted.as_ref()));
    }

    /// Prints all figures.
    pub fn print(&self) {
        self.figures.iter().for_each(Figure::print);
    }
}
