package main

import (
	"testing"
	"time"
)

func TestSwapGap(t *testing.T) {
	at := time.Unix(0, 0)
	var seen []result
	for i, ms := range []int{0, 20, 40, 60, 110, 130, 150} {
		r := result{Seq: uint64(i + 1), came: at.Add(time.Duration(ms) * time.Millisecond)}
		r.Model.Ver = "1.0.0"
		if i >= 4 {
			r.Model.Ver = "2.0.0"
		}
		if i == 6 {
			r.Seq += 2
		}
		seen = append(seen, r)
	}
	if gap, lost := swapGap(seen); gap != 2.5 || lost != 2 {
		t.Errorf("got a gap of %v periods and %d lost, want 2.5 and 2", gap, lost)
	}
}
