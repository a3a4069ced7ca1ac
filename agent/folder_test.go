package agent

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// keeps is a line of the table in docs/owner.md: a file, and its bound.
var keeps = regexp.MustCompile("(?m)^\\| `([a-z./]+)` \\|.*\\| (\\d+) \\|$")

// An agent that lives for long, with a house that is away for most of it, keeps the
// files that docs/owner.md names, and none is larger than it says.
func TestFolderIsBounded(t *testing.T) {
	text, err := os.ReadFile("../docs/owner.md")
	if err != nil {
		t.Fatal(err)
	}
	bounds := map[string]int64{}
	for _, m := range keeps.FindAllSubmatch(text, -1) {
		mib, _ := strconv.ParseInt(string(m[2]), 10, 32)
		bounds[string(m[1])] = mib << 20
	}
	if len(bounds) < 5 {
		t.Fatalf("docs/owner.md has a table of %d files", len(bounds))
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := newDwelling(t, PipelineFile{Privacy: PrivacyFile{Class: "frames", Pictures: "home"}})
		d.file.Pipelines[0].Source.FPS = 0.05
		for life := range 2 {
			stop := d.agent(ctx, nil)
			for hour := range 8 {
				d.broker.Down(hour%4 != 0)
				d.label.Store(int32(hour % 3))
				pass(time.Hour)
			}
			d.broker.Down(false)
			checkFolder(t, life, d.file.Data, bounds)
			stop()
			checkFolder(t, life, d.file.Data, bounds)
		}
	})
}

func checkFolder(t *testing.T, life int, data string, bounds map[string]int64) {
	t.Helper()
	var seen int
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seen++
		name, _ := filepath.Rel(data, path)
		if most, known := bounds[name]; !known || info.Size() > most {
			t.Errorf("life %d: %s has %d bytes, docs/owner.md says %d", life, name, info.Size(), most)
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Errorf("%d files: %v", seen, err)
	}
}
