package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// A worn card is often only read any more. Then the board works from memory: its data
// folder is copied there, without what waits to be sent, and its models are read where
// they are. What is written is gone at the next start.

// stays is what is not copied into memory. The models are linked to; what waits to be
// sent stays on the disk, for the day that it can be written again.
var stays = []string{"blobs", "engines"}

// maxCopied is the longest file that is copied into memory, bytes.
const maxCopied = 4 << 20

// unwritable says why nothing can be written in a folder; nil where it can, or where
// the disk is not to blame.
func unwritable(data string) error {
	path := filepath.Join(data, ".probe")
	err := os.MkdirAll(data, 0o700)
	if err == nil {
		err = blob.WriteFile(blob.OS{}, path, make([]byte, 4096))
	}
	_ = os.Remove(path) // what there may be of it
	err = blob.Coded(err, data)
	if !slices.Contains([]hal.Code{hal.CodeDiskFull, hal.CodeDiskRO, hal.CodeDiskIO}, hal.CodeOf(err)) {
		return nil // the agent says it better
	}
	return err
}

// onDisk is a configuration whose data folder can be written: the one given, or where its
// disk refuses, one with a folder in memory, which forget removes.
func onDisk(file *agent.File, log zerolog.Logger) (f *agent.File, forget func(), err error) {
	why := unwritable(file.Data)
	if why == nil {
		return file, func() {}, nil
	}
	dir, err := os.MkdirTemp(memory(), fmt.Sprintf("covey-data-%d-", os.Getpid()))
	if err != nil {
		return nil, nil, errors.Join(why, err)
	}
	forget = func() { _ = os.RemoveAll(dir) } // it is gone with the power, too
	if err := copied(file.Data, dir); err != nil {
		forget()
		return nil, nil, errors.Join(why, err)
	}
	log.Error().Err(why).Str("memory", dir).Msg("the data folder cannot be written: the agent works from memory, and forgets at its end")
	in := *file
	in.Data = dir
	return &in, forget, nil
}

// memory is a folder that is no disk: systemd's own for the service, or what else there is.
func memory() string {
	for _, dir := range []string{os.Getenv("RUNTIME_DIRECTORY"), "/dev/shm"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return os.TempDir()
}

// copied makes dir the same as a data folder, as far as is needed to go on.
func copied(data, dir string) error {
	// It is set aside as damaged: so a number of a message on the disk is not used twice.
	if err := os.WriteFile(filepath.Join(dir, "outbox.db"), []byte("in memory"), 0o600); err != nil {
		return err
	}
	if blobs := filepath.Join(data, "blobs"); exists(blobs) {
		if err := os.Symlink(blobs, filepath.Join(dir, "blobs")); err != nil {
			return err
		}
	}
	return filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be read is not there, and the agent says what it misses
		}
		name, err := filepath.Rel(data, path)
		to := filepath.Join(dir, name)
		switch {
		case err != nil || name == ".":
			return err
		case d.IsDir() && slices.Contains(stays, name):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o700)
		case strings.HasPrefix(name, "outbox.db") || !d.Type().IsRegular():
			return nil
		}
		b, err := blob.ReadFile(blob.OS{}, path, maxCopied)
		if err != nil {
			return nil
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			return fmt.Errorf("copy %s into memory: %w", name, err)
		}
		return nil
	})
}
