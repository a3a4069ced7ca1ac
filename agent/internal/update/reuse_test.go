package update_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
)

// blocksOf is a model of blocks that each begin with a word, no two alike.
func blocksOf(words ...string) string {
	var b strings.Builder
	for _, w := range words {
		fmt.Fprintf(&b, "%-*s", wire.BlockSize, strings.Repeat(w+" ", wire.BlockSize/(len(w)+1)))
	}
	return b.String()
}

// Blocks that the board has in any of its releases are not fetched, wherever they
// stand in the new file; the one that rotted here is.
func TestReuse(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1 := c.release(blocksOf("good", "a", "b", "c", "d", "e") + "tail")
	v2 := c.release(blocksOf("good", "new", "b", "c", "d", "e") + "tail")
	v3 := c.release(blocksOf("good", "b", "a", "d", "c", "e", "a") + "more") // a is in the previous release alone
	v4 := c.release(blocksOf("good", "d", "c") + "more")
	b.lives(func(s *session) {
		s.bring(1, v1)
		for i, step := range []struct {
			want  wire.DesiredRelease
			fetch int // blocks besides the manifest
		}{{v2, 1}, {v3, 1}} {
			before := c.blocks
			s.bring(uint64(i+2), step.want)
			if got := c.blocks - before - 1; got != step.fetch {
				t.Errorf("update %d: %d blocks fetched, want %d", i, got, step.fetch)
			}
		}
		// "d" of the active and the previous release.
		for _, slot := range []wire.Digest{s.pipeline(pipe).Active.Model, s.pipeline(pipe).Previous.Model} {
			for n, word := range map[int]string{3: "good b a d", 4: "good new b c d"} {
				if text := c.blobs[slot]; text[n*wire.BlockSize] == 'd' && !b.fs.Flip("/data/blobs/"+string(slot), (n*wire.BlockSize+9)*8) {
					t.Fatalf("no bit to flip in %s", word)
				}
			}
		}
		before := c.blocks
		s.bring(4, v4)
		if got := c.blocks - before - 1; got != 1 {
			t.Errorf("one of the blocks that are here has rotted, and %d were fetched", got)
		}
	})
}

// What runs is what a new model of the same pipeline is compared with; labels and
// manifests are not like it.
func TestAlike(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release(blocksOf("good", "a")), c.release(blocksOf("late:E_CRASH", "b"))
	b.lives(func(s *session) {
		seen := map[wire.Digest]wire.Digest{}
		c.asked = func(sha wire.Digest) { seen[sha] = s.loop.Alike(sha) }
		s.bring(1, v1)
		for sha, like := range seen {
			if like != "" {
				t.Errorf("%s is like %s, and nothing was here", sha.Short(), like.Short())
			}
		}
		clear(seen)
		model := s.pipeline(pipe).Active.Model
		if err := s.desire(2, map[string]wire.DesiredRelease{pipe: v2}); err != nil {
			t.Fatal(err)
		}
		s.tick(1e12, s.settled(v2.Execution))
		next := digest([]byte(blocksOf("late:E_CRASH", "b")))
		if seen[next] != model || seen[v2.Release] != "" || len(seen) != 2 {
			t.Errorf("alike: %v, want only %s for the model %s", seen, model.Short(), next.Short())
		}
	})
}
