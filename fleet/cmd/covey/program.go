package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// program finds one of our programs: beside this one, or on the PATH.
func program(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if path, err = exec.LookPath(name); err != nil {
		return "", usage("put "+name+" beside covey or on the PATH", "there is no program %s beside %s, nor on the PATH", name, self)
	}
	return filepath.Abs(path)
}
