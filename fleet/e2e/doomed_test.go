package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/source/folder"
)

// A doom says when an agent dies by its own SIGKILL, on its way to a release.
type doom struct {
	Config string // of the agent
	Agent  string // the program that stages runners
	Runner string

	Release wire.Digest
	State   wire.ExecState // it dies when this state is written,
	When    string         // before, after, or later, by Delay
	Delay   time.Duration
	Model   wire.Digest // or, with Blocks, in the middle of this block of the model
	Blocks  int

	// Lose is a broken disk: from this state on none is written, and the agent does
	// not notice.
	Lose wire.ExecState
}

const doomVariable = "COVEY_E2E_DOOM"

// TestMain is the agent itself, in a process of its own, when a test asks for one
// that dies at a certain moment: the real rooms on the real links, with a disk
// that kills.
func TestMain(m *testing.M) {
	text, ok := os.LookupEnv(doomVariable)
	if !ok {
		os.Exit(m.Run())
	}
	var d doom
	err := json.Unmarshal([]byte(text), &d)
	if err == nil {
		err = d.live()
	}
	fmt.Fprintln(os.Stderr, "it should have died:", err)
	os.Exit(1)
}

// startDoomed starts the agent of e so that it dies.
func (e *edge) startDoomed(d doom) *process {
	e.t.Helper()
	d.Config, d.Agent, d.Runner = e.config, program(e.t, "covey-agent"), program(e.t, "covey-runner-tflite")
	b, err := json.Marshal(d)
	if err != nil {
		e.t.Fatal(err)
	}
	return start(e.t, "doomed agent", []string{doomVariable + "=" + string(b)}, os.Args[0])
}

// live is what covey-agent does in run.
func (d doom) live() error {
	file, err := agent.ReadFile(d.Config)
	if err != nil {
		return err
	}
	id, err := agent.LoadIdentity(file.Data)
	if err != nil {
		return err
	}
	log := zerolog.New(os.Stderr).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	link := func(client string, clean bool) wire.Link {
		l, err := mqtt.New(mqtt.Config{URL: id.MQTT, ClientID: client, Clean: clean, Spread: time.Second, Logger: log,
			TLS: func() *tls.Config { c, _ := id.TLS(); return c }})
		if err != nil {
			panic(err) // the identity was good when it was loaded
		}
		return l
	}
	home, err := mqtt.New(mqtt.Config{URL: file.Home.Broker, ClientID: "covey-" + string(id.ID), Spread: time.Second, Logger: log})
	if err != nil {
		return err
	}
	return agent.Run(context.Background(), agent.Config{
		File: file, Device: id.ID, Version: "doomed", FS: &deadlyFS{doom: d}, Home: home, Log: log,
		Engines: []hal.Engine{runner.New(runner.Config{Name: "tflite", Program: d.Runner, Stage: []string{d.Agent, "stage"}, Logger: log})},
		Source: func(_ context.Context, s agent.SourceFile) (hal.Source, error) {
			return folder.Open(folder.Config{Path: s.Path, Loop: s.Loop, Watch: s.Watch, FPS: s.FPS})
		},
		Fleet: &agent.FleetLink{
			Link: link(string(id.ID), false), Bulk: func() wire.Link { return link(string(id.ID)+wire.BulkSuffix, true) },
			Root: id.Root, MachineID: firmware.MachineID(os.DirFS("/")),
		},
		CheckOutbox: []string{d.Agent, agent.CheckOutboxCommand},
	})
}

// A deadlyFS kills its process at the moment that its doom names.
type deadlyFS struct {
	blob.OS
	doom   doom
	lose   atomic.Bool
	blocks atomic.Int32
}

// Rename writes the state, when its name is the state's.
func (f *deadlyFS) Rename(old, new string) error {
	if filepath.Base(new) != stateFile {
		return f.OS.Rename(old, new)
	}
	d := f.doom
	release, state, _ := onDisk(old)
	if d.Lose != "" && release == d.Release && state == d.Lose {
		f.lose.Store(true)
	}
	here := release == d.Release && state == d.State && d.Blocks == 0
	if here && d.When == "before" {
		die()
	}
	if f.lose.Load() {
		old = new + ".old" // as it was
	}
	if err := f.OS.Rename(old, new); err != nil {
		return err
	}
	if here && d.When == "after" {
		die()
	}
	if here {
		time.AfterFunc(d.Delay, die) // waited for by nobody: it ends the process
	}
	return nil
}

// OpenRW opens what goes on to be received.
func (f *deadlyFS) OpenRW(name string) (blob.File, error) {
	file, err := f.OS.OpenRW(name)
	return f.deadly(name, file), err
}

// Create opens what begins to be received.
func (f *deadlyFS) Create(name string) (blob.File, error) {
	file, err := f.OS.Create(name)
	return f.deadly(name, file), err
}

func (f *deadlyFS) deadly(name string, file blob.File) blob.File {
	if file == nil || f.doom.Blocks == 0 || filepath.Base(name) != string(f.doom.Model)+".part" {
		return file
	}
	return &deadlyFile{file, f}
}

type deadlyFile struct {
	blob.File
	fs *deadlyFS
}

// WriteAt writes a block, the last one of this life by half.
func (f *deadlyFile) WriteAt(p []byte, off int64) (int, error) {
	if int(f.fs.blocks.Add(1)) < f.fs.doom.Blocks {
		return f.File.WriteAt(p, off)
	}
	f.File.WriteAt(p[:len(p)/2], off)
	die()
	return 0, nil
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

const stateFile = "state.json"

// onDisk is the execution that a state file tells of: of which release, and in
// which state. What is not there, or not whole, is empty.
func onDisk(path string) (wire.Digest, wire.ExecState, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	v, err := decode[struct {
		State struct {
			Pipelines map[string]struct {
				Exec struct {
					Want  struct{ Release wire.Digest }
					State wire.ExecState
				}
			}
		}
	}](b)
	x := v.State.Pipelines["cam"].Exec
	return x.Want.Release, x.State, err
}
