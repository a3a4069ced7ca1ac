// Package sim makes fleets out of the real agent: as many boards as memory allows, in
// one process, on links in memory and with the clock of a testing/synctest bubble. A
// board differs from a real one in its camera, which shows made-up pictures, and in
// its engine, which does what a model's file says behind its bytes (see Script).
package sim
