package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
)

// ForgetUsual takes out of a data folder's state what was usual in what the board saw, and
// what a broken state that was set aside may hold of it. No agent may use the folder: see
// Hold.
func ForgetUsual(data string) error {
	if _, err := os.Stat(filepath.Join(data, "state.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, err := slots.Open(data, blob.OS{})
	if err != nil {
		return err
	}
	for range 2 { // the state before the last change is kept, too
		err := s.Update(func(st slots.State) slots.State {
			st.Usual = nil
			return st
		})
		if err != nil {
			return fmt.Errorf("forget what is usual: %w", err)
		}
	}
	aside, err := filepath.Glob(filepath.Join(data, "state.json.corrupt-*"))
	for _, path := range aside {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// Secrets are the files with passwords and tokens that a configuration names.
func (f *File) Secrets() []string {
	var all []string
	add := func(path string) {
		if filepath.IsAbs(path) { // else it is a credential of the service
			all = append(all, path)
		}
	}
	if f.Home != nil {
		add(f.Home.PasswordFile)
	}
	if f.Local != nil {
		add(f.Local.PasswordFile)
		add(f.Local.TokenFile)
	}
	for _, p := range f.Pipelines {
		add(p.Source.PasswordFile)
	}
	return all
}
