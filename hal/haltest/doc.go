// Package haltest holds fakes of the hal interfaces for the tests of other
// rooms, and the suites that every real Engine and Source must pass.
//
// The fakes keep the contracts of hal: buffers are separate memory, outputs stay
// until the next Run of their buffer, a lost session stays lost. They use the
// clock of package time, so that testing/synctest drives them.
package haltest
