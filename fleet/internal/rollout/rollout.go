// Package rollout brings releases to devices and counts how it went. Whatever
// changes a device is a rollout, one device too. A rollout has one execution per
// device: an entry in that device's desired document, and what the device has
// said about it since.
//
// What should happen next, and what a device's word changes, are pure functions
// (decide.go). Service does the rest. The package touches the registry and the
// store, never the network.
package rollout

import (
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Rollout is a release going to a group of devices.
type Rollout struct {
	ID       string            `json:"id"`
	Release  Release           `json:"release"`
	Pipeline string            `json:"pipeline"`
	Query    string            `json:"query"` // the group, as the operator wrote it
	By       string            `json:"by"`    // who asked
	State    wire.RolloutState `json:"state"`
	Created  time.Time         `json:"created"`
	Ended    time.Time         `json:"ended,omitzero"`
	Devices  int               `json:"devices"`
	// Counts is how many executions stand in each state.
	Counts map[wire.ExecState]int `json:"counts"`
}

// Over says whether nothing more will happen in this state.
func (r Rollout) Over() bool {
	return r.State == wire.RolloutCompleted || r.State == wire.RolloutAborted || r.State == wire.RolloutRolledBack
}

// A Release is what a rollout needs to know of one.
type Release struct {
	Digest  wire.Digest `json:"digest"` // of the manifest
	Length  int64       `json:"length"` // of the manifest, bytes
	Name    string      `json:"name"`
	Version string      `json:"version"`
}

// An Execution is a rollout on one device, one attempt.
type Execution struct {
	ID      string         `json:"id"`
	Rollout string         `json:"rollout"`
	Device  wire.DeviceID  `json:"device"`
	Attempt int            `json:"attempt"`
	Rev     uint64         `json:"rev"` // of the desired document that asks for it; 0: not asked yet
	State   wire.ExecState `json:"state"`
	N       int            `json:"n"` // of the last step taken in
	Done    int64          `json:"done,omitempty"`
	Total   int64          `json:"total,omitempty"`
	GapMS   int64          `json:"gap_ms,omitempty"` // that nothing ran, as wire.ExecStep has it
	Fault   *wire.Fault    `json:"fault,omitempty"`
	Updated time.Time      `json:"updated"`
	// Before is the wish that this one replaced and that was fulfilled: what to go
	// back to when the rollout is aborted. nil: the device keeps what it runs.
	Before *wire.DesiredRelease `json:"before,omitempty"`
}

// count is how many executions stand in each state.
func count(xs []Execution) map[wire.ExecState]int {
	n := map[wire.ExecState]int{}
	for _, x := range xs {
		n[x.State]++
	}
	return n
}
