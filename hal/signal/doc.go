// Package signal brings samples into the form that a model wants: the channels,
// the rate, the type and the layout of its input. It is pure: samples in, samples
// or tensor bytes out.
package signal
