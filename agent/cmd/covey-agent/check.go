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
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

func checkCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check the configuration: every mistake with its line",
		Example: "  covey-agent check --config agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := agent.ReadFile(config)
			if err != nil {
				return err
			}
			device, err := file.DeviceName()
			if err != nil {
				return err
			}
			if err := checkSources(file); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: device %s, %d pipelines\n", config, device, len(file.Pipelines))
			return nil
		},
	}
	configFlag(cmd, &config)
	return cmd
}

// checkSources opens every source once.
func checkSources(file *agent.File) error {
	var errs []error
	for _, p := range file.Pipelines {
		s, err := source(p.Source)
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("pipeline %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

const doctorTime = 30 * time.Second

func doctorCommand() *cobra.Command {
	var config string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Say what this board can run on, what is missing, and the fix",
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
	all, err := engines(zerolog.Nop())
	if err != nil {
		return nil, err
	}
	r := &report{Version: version, Board: firmware.Detect(os.DirFS("/")), Arch: runtime.GOARCH, Devices: []hal.Device{}}
	for _, e := range all {
		devices, diagnoses := e.Probe(ctx)
		r.Devices = append(r.Devices, devices...)
		r.Diagnoses = append(r.Diagnoses, diagnoses...)
	}
	file, err := agent.ReadFile(config)
	switch {
	case err == nil:
		r.Diagnoses = append(r.Diagnoses, examineFile(ctx, config, file)...)
	case wanted || !errors.Is(err, os.ErrNotExist):
		r.Diagnoses = append(r.Diagnoses, hal.Diagnosis{Subject: "configuration", Detail: err.Error(), Fix: "covey-agent check --config " + config})
	}
	return r, nil
}

func examineFile(ctx context.Context, config string, file *agent.File) []hal.Diagnosis {
	list := []hal.Diagnosis{{Subject: "configuration", OK: true, Detail: config}}
	if err := checkSources(file); err != nil {
		list = append(list, hal.Diagnosis{Subject: "sources", Detail: err.Error(), Fix: "mend the path in " + config})
	}
	id, err := agent.LoadIdentity(file.Data)
	switch {
	case err != nil:
		list = append(list, hal.Diagnosis{Subject: "fleet", Detail: err.Error(), Fix: "covey-agent join TOKEN"})
	case id == nil:
		list = append(list, hal.Diagnosis{Subject: "fleet", OK: true, Detail: "this board joined none"})
	default:
		list = append(list, reach(ctx, "fleet broker", id.MQTT))
	}
	if file.Home != nil {
		list = append(list, reach(ctx, "home broker", file.Home.Broker))
	}
	return list
}

// reach says whether something listens where a broker should.
func reach(ctx context.Context, subject, address string) hal.Diagnosis {
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
		fmt.Fprintf(t, "can run on\t%s\t%s\t%s\n", d.Accelerator, d.Name, d.Runtime)
	}
	for _, d := range r.Diagnoses {
		mark := "ok"
		if !d.OK {
			mark = "MISSING"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", mark, d.Subject, d.Detail)
		if d.Fix != "" {
			fmt.Fprintf(t, "\t\tfix: %s\t\n", d.Fix)
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
