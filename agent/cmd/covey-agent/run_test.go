package main

import (
	"testing"
	"time"
)

func TestFloor(t *testing.T) {
	before := built
	defer func() { built = before }()
	for text, want := range map[string]time.Time{"": {}, "dev": {}, "1795440000": time.Unix(1795440000, 0)} {
		built = text
		if got := floor(); !got.Equal(want) {
			t.Errorf("built %q: floor %v, want %v", text, got, want)
		}
	}
}
