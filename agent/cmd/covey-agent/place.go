package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// A place is where setup and erase find and put things on a board.
type place struct {
	config  string // the configuration's path
	data    string // folder, where the configuration says none
	dropIn  string // file of the service's needs
	systemd string // systemctl; "": there is no service for this configuration here
	owner   owner  // the service's user
}

// An owner is who files are given to; the zero value is whoever makes them.
type owner struct {
	there    bool
	uid, gid int
}

const (
	service   = "covey-agent"
	unitFile  = "covey-agent.service"
	dropInDir = "/etc/systemd/system/covey-agent.service.d"
)

// thisBoard is the board that this program runs on.
func thisBoard(config string) place {
	if abs, err := filepath.Abs(config); err == nil {
		config = abs
	}
	p := place{config: config, data: agent.DefaultData, dropIn: filepath.Join(dropInDir, "config.conf")}
	if f, err := agent.ParseFile(config, "/", nil); err == nil {
		p.data = f.Data
	}
	if os.Geteuid() != 0 || config != defaultConfig {
		return p
	}
	if u, err := user.Lookup("covey"); err == nil {
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		p.owner = owner{errUID == nil && errGID == nil, uid, gid}
	}
	for _, dir := range []string{"/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"} {
		if exists("/run/systemd/system") && exists(filepath.Join(dir, unitFile)) {
			p.systemd = "systemctl"
		}
	}
	return p
}

// writable says whether the configuration could be written, before anybody is asked
// anything.
func (p place) writable() error {
	dir := filepath.Dir(p.config)
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".covey-*")
	if err != nil {
		return &hal.Error{Code: hal.CodeConfig, Err: err,
			Text: fmt.Sprintf("%s cannot be written: run sudo covey-agent setup, or name another file with --config", p.config)}
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// beside is a path as the configuration names it: a bare name where it lies beside it.
func (p place) beside(path string) string {
	if filepath.Dir(path) == filepath.Dir(p.config) {
		return filepath.Base(path)
	}
	return path
}

// owned is the file system with all new files of one owner and mode.
type owned struct {
	blob.OS
	owner
	mode fs.FileMode
}

// Create makes a file, its owner's before there is anything in it.
func (o owned) Create(name string) (blob.File, error) {
	f, err := o.OS.Create(name)
	if err != nil {
		return nil, err
	}
	err = os.Chmod(name, o.mode)
	if o.there && err == nil {
		err = os.Chown(name, o.uid, o.gid)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write replaces a file, whole or not at all.
func (p place) write(path, text string, mode fs.FileMode, o owner) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return blob.WriteFile(owned{blob.OS{}, o, mode}, path, []byte(text))
}

// secret keeps a password in a file that the service alone may read.
func (p place) secret(name, text string) error {
	return p.write(filepath.Join(filepath.Dir(p.config), name), text+"\n", 0o600, p.owner)
}

// configuration replaces the configuration, which the service may read and root alone may
// write; kept is where the one before is now, "" where there was none.
func (p place) configuration(text string) (kept string, err error) {
	old, err := os.ReadFile(p.config)
	if err == nil && string(old) != text {
		kept, err = p.keep(old)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	o := p.owner
	o.uid = os.Geteuid()
	return kept, p.write(p.config, text, 0o640, o)
}

// keep puts a copy beside the configuration, under a name that was free.
func (p place) keep(text []byte) (string, error) {
	for n := 1; ; n++ {
		path := fmt.Sprintf("%s.%d", p.config, n)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = f.Write(text)
		return path, errors.Join(err, f.Sync(), f.Close())
	}
}

// lets says whether the service may read a file.
func (p place) lets(path string) error {
	fi, err := os.Stat(path)
	if err != nil || !p.owner.there {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	mode := fi.Mode().Perm()
	if !ok || mode&0o004 != 0 || int(st.Uid) == p.owner.uid && mode&0o400 != 0 || int(st.Gid) == p.owner.gid && mode&0o040 != 0 {
		return nil
	}
	return fmt.Errorf("the service's user covey may not read %s: sudo chmod a+r %s", path, path)
}

// give hands what lies in the data folder over to the service.
func (p place) give(paths ...string) error {
	if !p.owner.there {
		return nil
	}
	var errs []error
	for _, path := range paths {
		err := os.Chown(path, p.owner.uid, p.owner.gid)
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// systemctl runs a command of the service manager.
func (p place) systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, p.systemd, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, line(errors.New(text)))
	}
	return text, nil
}

// chownLike gives files to whom another belongs.
func chownLike(fi fs.FileInfo, paths []string) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.Chown(path, int(st.Uid), int(st.Gid)))
	}
	return errors.Join(errs...)
}
