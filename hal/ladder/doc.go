// Package ladder chooses what a model runs best on, by measuring, and falls back
// when that fails. Its Engine stands before another one, which does the running.
//
// # How it chooses
//
// Candidates are the accelerators that the engine found, in order, times numbers
// of threads, times settings. Each is opened in a runner of its own, so that a
// crash, a hang or a hunger for memory ends that candidate and nothing else. It
// runs zeros, then the golden samples of the release or a few inputs that are made
// up, and what it answers is held against the plain CPU's answers. What agrees is
// timed in turns with the best so far: both see the same heat and the same other
// work. The fastest wins; within two percent the one with fewer threads. At most
// two candidates are open at a time, and one model is measured at a time.
//
// The choice is remembered by model, board, CPU, devices with the versions of
// their runtimes and drivers, and what was asked for. When any of it changes, the
// model is measured again.
//
// # When it measures
//
// A board that starts should give results at once, so [Engine.Start] opens what is
// remembered, or else what is safe (XNNPACK, then the plain CPU), and
// [Engine.Better] measures beside it. A release that is to be judged is measured
// before it is put to work: [Engine.Open]. There a model that kills the runtime's
// own kernels, XNNPACK's or the plain CPU's, is refused: its file corrupts memory,
// and what runs it all the same has had luck. A driver that dies only loses.
//
// # When it fails
//
// A session that Auto gave counts its failures. Too many, and its accelerator is
// benched for this model: that session is lost, and the next one is opened on the
// next rung, with the reason in Info.Degraded. [Engine.Better] opens the better one
// again after a minute, two, four, up to an hour, beside the one that works.
package ladder
