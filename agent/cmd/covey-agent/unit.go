package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

const unitExample = `  covey-agent unit | sudo tee /etc/systemd/system/covey-agent.service.d/config.conf
  # a fleet may configure cameras here, too
  covey-agent unit --also v4l2,csi`

func unitCommand() *cobra.Command {
	var config string
	var also []string
	cmd := &cobra.Command{
		Use:   "unit",
		Short: "Print what the service needs for this configuration: devices, groups, folders",
		Long: "Print a drop-in for the systemd unit: the devices, groups and folders that this configuration needs on this\n" +
			"board. The unit itself opens no camera, microphone, sensor or port. Print it again when the configuration has\n" +
			"other sources.",
		Example: unitExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := agent.ReadFile(config)
			if err != nil {
				return err
			}
			return printNeeds(cmd.OutOrStdout(), config, file, also)
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringSliceVar(&also, "also", nil, "types of sources that the fleet may configure, as in v4l2,alsa")
	return cmd
}

// printNeeds prints what the service needs for a configuration, and for types of sources that
// a fleet may configure.
func printNeeds(w io.Writer, config string, file *agent.File, also []string) error {
	n := needs{allow: set{}, groups: set{}, families: set{}, read: set{}}
	for _, t := range also {
		if err := n.source(agent.SourceFile{Type: strings.TrimSpace(t)}); err != nil {
			return fmt.Errorf("--also: %w", err)
		}
	}
	if err := n.file(file, sandbox.DeviceNodes(os.DirFS("/"), wanted(file))); err != nil {
		return err
	}
	n.print(w, config, membership)
	return nil
}

// membership says whether there is a group here, and whether the service's user is in it
// anyway: a package puts it into those of devices.
func membership(group string) (there, member bool) {
	g, err := user.LookupGroup(group)
	if err != nil {
		return false, false
	}
	u, err := user.Lookup(serviceUser)
	if err != nil {
		return true, false
	}
	ids, err := u.GroupIds()
	return true, err == nil && slices.Contains(ids, g.Gid)
}

// serviceUser is the one that the unit names.
const serviceUser = "covey"

// wanted are the accelerators that models may run on.
func wanted(file *agent.File) []hal.Accelerator {
	var all []hal.Accelerator
	for _, p := range file.Pipelines {
		switch {
		case p.Accelerator != hal.Auto:
			all = append(all, p.Accelerator)
		case len(p.Accelerators) > 0:
			all = append(all, p.Accelerators...)
		case len(file.Accelerators) > 0:
			all = append(all, file.Accelerators...)
		default:
			all = append(all, hal.Auto)
		}
	}
	return all
}

type set map[string]bool

func (s set) add(names ...string) {
	for _, n := range names {
		s[n] = true
	}
}

// needs are what a configuration needs of a board that the unit does not give.
type needs struct {
	allow    set // of DeviceAllow=
	groups   set
	families set // of addresses
	read     set // folders and files in homes
	notes    []string
}

// sourceNeeds is what each type of source opens, by the kernel's names for drivers, and
// the groups of its nodes. Those that are not here open none.
var sourceNeeds = map[string]struct{ allow, groups, families string }{
	"v4l2":   {"char-video4linux", "video", ""},
	"csi":    {"char-video4linux char-media char-dma_heap", "video render", "AF_NETLINK"}, // libcamera listens to udev
	"alsa":   {"char-alsa", "audio", ""},
	"iio":    {"char-iio", "iio", ""},
	"gpio":   {"char-gpiochip", "gpio", ""},
	"serial": {"", "dialout", ""},

	"folder": {}, "synthetic": {}, "rtsp": {}, "mjpeg": {}, "exec": {}, "wav": {}, "mqtt": {},
}

// ports are the drivers of serial ports, by the beginnings of their nodes' names; links
// may lead to more than one of them.
var ports = []struct{ begin, allow string }{
	{"/dev/ttyUSB", "char-ttyUSB"}, {"/dev/ttyACM", "char-ttyACM"}, {"/dev/ttyAMA", "char-ttyAMA"}, {"/dev/ttyS", "char-ttyS"},
	{"/dev/rfcomm", "char-rfcomm"}, {"/dev/serial/", "char-ttyUSB char-ttyACM"}, {"/dev/serial", "char-ttyAMA char-ttyS"},
	{"", "char-ttyUSB char-ttyACM char-ttyAMA char-ttyS"},
}

func (n *needs) source(s agent.SourceFile) error {
	need, known := sourceNeeds[s.Type]
	if !known {
		return fmt.Errorf("no source of type %s: there are %s", s.Type, strings.Join(slices.Sorted(maps.Keys(sourceNeeds)), ", "))
	}
	for names := range strings.FieldsSeq(need.allow) {
		n.allow.add(names)
	}
	n.groups.add(strings.Fields(need.groups)...)
	n.families.add(strings.Fields(need.families)...)
	if s.Type == "serial" {
		for _, p := range ports {
			if strings.HasPrefix(s.Device, p.begin) {
				n.allow.add(strings.Fields(p.allow)...)
				break
			}
		}
	}
	return nil
}

// nodeGroups are the groups of accelerators' nodes, by the beginnings of their paths.
var nodeGroups = []struct{ begin, groups, families string }{
	{"/dev/apex_", "apex", ""},
	{"/dev/bus/usb/", "plugdev", "AF_NETLINK"}, // libusb hears by it that a Coral came back with its firmware
	{"/dev/nv", "video", ""}, {"/dev/host1x", "video", ""}, {"/dev/dma_heap/", "video", ""},
	{"/dev/", "render", ""},
}

func (n *needs) file(f *agent.File, nodes []string) error {
	for _, p := range f.Pipelines {
		if err := n.source(p.Source); err != nil {
			return err
		}
		if p.Source.Type == "exec" {
			n.notes = append(n.notes, fmt.Sprintf("pipeline %s runs %s: what that needs is not known here", p.Name, filepath.Base(p.Source.Command[0])))
		}
		n.home(p.Source.Path, p.Source.CA, p.Source.PasswordFile, p.Model, p.Labels)
	}
	if h := f.Home; h != nil {
		n.home(h.CA, h.PasswordFile)
	}
	for _, d := range f.Delegates {
		n.allow.add(d.Devices...)
		nodes = append(nodes, d.Devices...)
		n.home(d.Library)
	}
	for _, node := range nodes {
		for _, g := range nodeGroups {
			if strings.HasPrefix(node, g.begin) {
				n.groups.add(g.groups)
				n.families.add(strings.Fields(g.families)...)
				break
			}
		}
	}
	return nil
}

// home notes what lies in a home.
func (n *needs) home(paths ...string) {
	for _, p := range paths {
		for _, top := range []string{"/home/", "/root/", "/run/user/"} {
			if strings.HasPrefix(p, top) {
				n.read.add(p)
			}
		}
	}
}

// print writes the drop-in. A group that the board does not have would keep the service
// from starting; one that its user is in need not be named.
func (n *needs) print(w io.Writer, config string, membership func(group string) (there, member bool)) {
	fmt.Fprintf(w, "# What %s needs of this board besides the unit.\n# Made by covey-agent unit: print it again when other sources are configured.\n[Service]\n", config)
	for _, note := range n.notes {
		fmt.Fprintf(w, "# %s\n", note)
	}
	for _, name := range slices.Sorted(maps.Keys(n.allow)) {
		fmt.Fprintf(w, "DeviceAllow=%s rw\n", name)
	}
	for _, group := range slices.Sorted(maps.Keys(n.groups)) {
		switch there, member := membership(group); {
		case !there:
			fmt.Fprintf(w, "# no group %s here: a udev rule has to open the device to the user %s\n", group, serviceUser)
		case !member:
			fmt.Fprintf(w, "SupplementaryGroups=%s\n", group)
		}
	}
	for _, family := range slices.Sorted(maps.Keys(n.families)) {
		fmt.Fprintf(w, "RestrictAddressFamilies=%s\n", family)
	}
	if len(n.read) > 0 {
		fmt.Fprintln(w, "ProtectHome=tmpfs")
	}
	for _, path := range slices.Sorted(maps.Keys(n.read)) {
		fmt.Fprintf(w, "BindReadOnlyPaths=%s\n", quoted(path))
	}
}

// quoted is a path as systemd reads it.
func quoted(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if !strings.ContainsAny(path, " \t\"'\\:") {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, ":", `\:`).Replace(path) + `"`
}
