package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// The file "formats" in the data folder says which agent wrote last what lies there, and
// in which formats, a line each: "state 1", "outbox 1", "version 1.2.0". An agent reads
// it before it opens anything, and so does the package of an agent before it is
// installed over another: neither goes on where a later agent has written what it
// cannot read. Who changes a format so that agents before cannot read it raises its
// number, and goes on reading those of the two releases before.
const formatsFile = "formats"

// maxFormats is the longest file of formats, bytes.
const maxFormats = 1 << 10

// stored is the greatest format of each file that this agent reads, and the one that
// it writes.
var stored = map[string]int{"state": slots.Format, "outbox": uplink.Format}

// Formats is what this agent reads and writes, as the file "formats" says it.
func Formats() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		fmt.Fprintf(&b, "%s %d\n", name, stored[name])
	}
	return b.String()
}

// admitFormats refuses a data folder (E_STATE_NEWER) in which something has a format that
// this agent does not know. Of one that it may use, it says that it does.
func admitFormats(fsys blob.FS, data, version string) error {
	path := filepath.Join(data, formatsFile)
	was, err := blob.ReadFile(fsys, path, maxFormats)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && hal.CodeOf(err) != hal.CodeLength {
		return fmt.Errorf("read %s: %w", path, blob.Coded(err, path))
	}
	wrote, there := parseFormats(string(was))
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if there[name] > stored[name] {
			return &hal.Error{Code: hal.CodeStateNewer, Text: fmt.Sprintf(
				"covey-agent %s wrote %s: its %s has format %d, and this agent (%s) reads up to %d. Install %s again; or give up what it wrote, "+
					"and begin anew (models are fetched again, what was not delivered is lost): rm %s/state.json* %s/outbox.db* %s",
				wrote, data, name, there[name], version, stored[name], wrote, data, data, path)}
		}
	}
	now := fmt.Sprintf("%sversion %s\n", Formats(), version)
	if string(was) == now {
		return nil
	}
	if err := blob.WriteFile(fsys, path, []byte(now)); err != nil {
		return fmt.Errorf("write %s: %w", path, blob.Coded(err, path))
	}
	return nil
}

// parseFormats reads the file. What it does not understand says nothing: the files
// themselves carry their numbers, too.
func parseFormats(text string) (version string, found map[string]int) {
	version, found = "of a later version", map[string]int{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseUint(value, 10, 31); name == "version" && plain(value) {
			version = value
		} else if err == nil {
			found[name] = int(n)
		}
	}
	return version, found
}

// plain says whether a version can be shown in a terminal.
func plain(version string) bool {
	return version != "" && !strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' })
}
