// Package runner runs models in programs of their own: an Engine starts a runner
// program, hands it the model as sealed memory and exchanges tensors with it
// through shared memory. A model that crashes, hangs or eats memory takes its
// runner with it and nothing else.
//
// The words between the two are in PROTOCOL.md; package proto is the same in Go.
// Stage is what stands between the agent and the runner: a pure-Go program that
// limits itself, then becomes the runner.
package runner
