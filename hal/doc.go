// Package hal is the vocabulary of the hardware abstraction layer: frames that
// sources produce, tensors that models take and give, and the engines that run
// them. It holds nouns and interfaces, and imports the standard library alone,
// so that every room may import it.
//
// Drivers are plain values that a main hands to the agent. There is no registry.
package hal
