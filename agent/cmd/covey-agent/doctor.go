package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/user"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/agent/internal/doctor"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

const doctorTime = 30 * time.Second

func doctorCommand() *cobra.Command {
	var config string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this board can run on, what is missing, and the fix",
		Long: "Look at this board: runtimes, accelerators and their drivers, cameras, power, heat, clock, disk, and what\n" +
			"the kernel has for the sandbox of runners. Each line is ok or has a fix. With a configuration it also looks\n" +
			"at sources and brokers, and says what each model runs on and what all else lost by. It changes nothing.",
		Example: "  covey-agent doctor\n  covey-agent doctor --config agent.yaml --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTime)
			defer cancel()
			r, err := examine(ctx, config, cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), asJSON)
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A report is what doctor says.
type report struct {
	Version   string          `json:"version"`
	Board     firmware.Board  `json:"board"`
	Arch      string          `json:"arch"`
	Devices   []hal.Device    `json:"devices"`
	Diagnoses []hal.Diagnosis `json:"diagnoses"`
}

// examine looks at engines, and with a configuration at what that needs.
func examine(ctx context.Context, config string, wanted bool) (*report, error) {
	file, err := agent.ReadFile(config)
	data := agent.DefaultData
	if err == nil {
		data = file.Data
	}
	all, failed := engines(file, nil, zerolog.Nop())
	if failed != nil {
		return nil, failed
	}
	r := &report{Version: version, Board: firmware.Detect(os.DirFS("/")), Arch: runtime.GOARCH, Devices: []hal.Device{}}
	r.Diagnoses = append(doctor.Examine(here(data)), sandbox.Examine(os.DirFS("/"))...)
	for _, e := range all {
		devices, diagnoses := e.Probe(ctx)
		r.Devices = append(r.Devices, devices...)
		r.Diagnoses = append(r.Diagnoses, diagnoses...)
	}
	decoder, failed := pictures(nil, zerolog.Nop())
	if failed != nil {
		return nil, failed
	}
	if decoder != nil {
		_, diagnoses := decoder.Probe(ctx)
		r.Diagnoses = append(r.Diagnoses, diagnoses...)
	}
	switch {
	case err == nil:
		r.Diagnoses = append(r.Diagnoses, examineFile(ctx, config, file)...)
	case wanted || !errors.Is(err, os.ErrNotExist):
		r.Diagnoses = append(r.Diagnoses, broken(config, err))
	}
	return r, nil
}

// broken is the line about a configuration that cannot be read.
func broken(config string, err error) hal.Diagnosis {
	d := hal.Diagnosis{Subject: "configuration", Detail: line(err), Fix: "covey-agent check --config " + config}
	if errors.Is(err, os.ErrNotExist) {
		d.Fix = "write it, or name another with --config"
	}
	return d
}

// line is an error, which may be several, in one line.
func line(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// here is the board that this program runs on.
func here(data string) doctor.Board {
	name := "covey"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return doctor.Board{
		Root: os.DirFS("/"), Arch: runtime.GOARCH, Data: data, User: name,
		PageSize: os.Getpagesize(), Now: time.Now(), Floor: floor(),
		Access: func(path string) error { return unix.Access(path, unix.R_OK|unix.W_OK) },
		Disk: func(path string) (free, total uint64, err error) {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return 0, 0, err
			}
			return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
		},
	}
}

func examineFile(ctx context.Context, config string, file *agent.File) []hal.Diagnosis {
	list := append([]hal.Diagnosis{{Subject: "configuration", OK: true, Detail: config}}, chosen(file.Data)...)
	b := here(file.Data)
	for _, d := range file.Delegates {
		list = append(list, doctor.Delegate(b, d.Library, d.Devices))
	}
	for _, p := range file.Pipelines {
		if p.Model != "" {
			list = append(list, doctor.Model(p.Name, p.Model))
		}
	}
	if err := checkSources(ctx, file); err != nil {
		list = append(list, hal.Diagnosis{Subject: "sources", Detail: line(err), Fix: "mend the path in " + config})
	}
	id, err := agent.LoadIdentity(file.Data)
	switch {
	case err != nil:
		list = append(list, hal.Diagnosis{Subject: "fleet", Detail: err.Error(), Fix: "covey-agent join TOKEN"})
	case id == nil:
		list = append(list, hal.Diagnosis{Subject: "fleet", OK: true, Detail: "this board joined none"})
	default:
		list = append(list, dial(ctx, "fleet broker", id.MQTT))
	}
	if file.Home != nil {
		list = append(list, dial(ctx, "home broker", file.Home.Broker))
	}
	return list
}

// chosen is what models run on, and what the other accelerators lost by.
func chosen(data string) []hal.Diagnosis {
	path := agent.ChoicesPath(data)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var list []hal.Diagnosis
	if err == nil {
		list, err = ladder.Explain(b)
	}
	if err != nil {
		return []hal.Diagnosis{{Subject: "accelerators", Detail: err.Error(), Fix: "sudo rm " + path + ": models are measured again"}}
	}
	return list
}

// dial says whether something listens where a broker should.
func dial(ctx context.Context, subject, address string) hal.Diagnosis {
	d := hal.Diagnosis{Subject: subject, Detail: address}
	u, err := url.Parse(address)
	if err != nil {
		d.Detail, d.Fix = err.Error(), "mend the address"
		return d
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}[u.Scheme])
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		d.Detail, d.Fix = err.Error(), "see that the broker runs, that the address is right, and that no firewall is between"
		return d
	}
	conn.Close()
	d.OK = true
	return d
}

func (r *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(w, "covey-agent %s on %s (%s, %d cores, %d MiB)\n", r.Version, orUnknown(r.Board.Name), r.Arch, r.Board.CPUs, r.Board.RAM>>20)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, d := range r.Devices {
		versions := d.Runtime
		if d.Driver != "" {
			versions += ", " + d.Driver
		}
		fmt.Fprintf(t, "can run on\t%s\t%s\t%s\n", strings.TrimSpace(string(d.Accelerator)+" "+d.ID), d.Name, versions)
	}
	for _, d := range r.Diagnoses {
		mark := "ok"
		if !d.OK {
			mark = "mend"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", mark, d.Subject, d.Detail)
		if d.Fix != "" {
			fmt.Fprintf(t, "\t\tfix: %s\n", d.Fix)
		}
	}
	return t.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown board"
	}
	return s
}
