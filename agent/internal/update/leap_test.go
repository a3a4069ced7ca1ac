package update_test

import (
	"math"
	"testing"

	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Whoever had the director's key for a day has not used up the revisions: the next
// director, with a key of its own, goes on.
func TestRevisionsAreNotUsedUp(t *testing.T) {
	c := newController()
	newBoard(t, crashfs.New(), c).lives(func(s *session) {
		s.bring(1, c.release("good"))
		for _, rev := range []uint64{math.MaxUint64, 1 << 53, 1<<32 + 2} {
			if err := s.desire(rev, map[string]wire.DesiredRelease{}); hal.CodeOf(err) != hal.CodeRollback {
				t.Errorf("rev %d: %v", rev, err)
			}
		}
		if err := s.desire(1<<32+1, map[string]wire.DesiredRelease{}); err != nil {
			t.Error(err)
		}
		if got := s.state.State().Rev; got != 1<<32+1 {
			t.Errorf("rev %d", got)
		}
	})
}
