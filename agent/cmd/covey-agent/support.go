package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/agent"
)

const supportExample = `  # an archive in this folder
  sudo covey-agent support

  # elsewhere; what is in it
  sudo covey-agent support -o /tmp/porch.tar.gz
  tar -xzOf /tmp/porch.tar.gz | less`

func supportCommand() *cobra.Command {
	var config, to string
	cmd := &cobra.Command{
		Use:   "support",
		Short: "Make an archive for whoever helps: versions, doctor, configuration and log, without secrets",
		Long: "Makes one archive to attach to an issue: versions, what doctor says, the configuration, which releases the board\n" +
			"has and had, the last lines of the log. Passwords, users, tokens, keys, and all of an address but its host are\n" +
			"not in it, nor is any picture, or result. It is yours alone to read: look at it before you send it.",
		Example: supportExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTime)
			defer cancel()
			if to == "" {
				to = "covey-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			b, err := newBundle(ctx, config, cmd.Flags().Changed("config"), os.Environ())
			if err != nil {
				return err
			}
			if err := b.write(to); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, readable by you alone:\n", to)
			for _, f := range b.files {
				fmt.Fprintf(cmd.OutOrStdout(), "  %-12s %6d bytes  %s\n", f.name, len(f.text), f.what)
			}
			return nil
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringVarP(&to, "output", "o", "", "file to make (default: covey-support-<time>.tar.gz here)")
	return cmd
}

// A bundle is what goes to whoever helps.
type bundle struct {
	files []bundled
	at    time.Time
}

type bundled struct {
	name, what, text string
}

func (b *bundle) add(name, what, text string) { b.files = append(b.files, bundled{name, what, text}) }

const (
	maxJournal   = 256 << 10 // bytes of the log
	journalLines = "500"
)

// newBundle collects it, and lets nothing through that is a secret.
func newBundle(ctx context.Context, config string, wanted bool, environment []string) (*bundle, error) {
	p := thisBoard(config)
	raw, err := readAtMost(p.config, 256<<10)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the configuration: %w; run it with sudo", err)
	}
	shown, secrets := agent.Redacted(raw)
	file, broken := agent.ReadFile(p.config)
	data := p.data
	if broken == nil {
		data = file.Data
	}
	v := newVeil(append(secrets, secretsOf(p.config, raw, data, environment)...))

	b := &bundle{at: time.Now()}
	b.add("about.txt", "versions", v.overKnown(about(b.at, data)))
	if raw != nil {
		b.add("agent.yaml", "the configuration, without secrets", v.overKnown(string(shown)))
	}
	r, err := examine(ctx, p.config, wanted)
	if err != nil {
		return nil, err
	}
	b.add("doctor.json", "what covey-agent doctor says", doctorText(r, v))
	b.add("state.json", "releases that the board has and had", stateText(data, v))
	b.add("journal.txt", "the end of the log", v.over(journal(ctx)))
	return b, nil
}

func about(now time.Time, data string) string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("covey-agent %s\nbuilt %s\n%s, %s, kernel %s\nnow %s\nreads and writes\n%sin %s\n%s",
		version, built, runtime.Version(), runtime.GOARCH, kernel, now.UTC().Format(time.RFC3339), agent.Formats(), data, agent.StoredFormats(data))
}

var inQuotes = regexp.MustCompile(`"[^"]*"`)

// doctorText is doctor's report. What it says of a configuration with mistakes quotes
// that.
func doctorText(r *report, v *veil) string {
	for i := range r.Diagnoses {
		d := &r.Diagnoses[i]
		d.Detail, d.Fix = v.over(d.Detail), v.over(d.Fix)
		if d.Subject == "configuration" && !d.OK {
			d.Detail = inQuotes.ReplaceAllString(d.Detail, `"…"`)
		}
	}
	return indented(r)
}

func stateText(data string, v *veil) string {
	d, err := agent.DigestOf(data)
	if err != nil {
		return v.over(err.Error()) + "\n"
	}
	return v.overKnown(indented(d))
}

func indented(value any) string {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err.Error() + "\n"
	}
	return string(b) + "\n"
}

// journal is the end of the service's log, or why it is not there.
func journal(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", "-u", service, "-u", "covey-runner@*", "-n", journalLines, "--no-pager", "-o", "short-iso")
	out, err := cmd.Output()
	if err != nil {
		return "journalctl: " + err.Error() + "\n"
	}
	if cut := len(out) - maxJournal; cut > 0 {
		out = out[cut:]
		_, rest, _ := bytes.Cut(out, []byte("\n")) // half a line may hold half a secret
		out = rest
	}
	return string(out)
}

// write makes the archive, under a name that was free. It belongs to whom sudo was
// called by.
func (b *bundle) write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the archive: %w; name another with -o", err)
	}
	err = errors.Join(b.pack(f), sudoer(f), f.Close())
	if err != nil {
		err = errors.Join(fmt.Errorf("make the archive: %w", err), os.Remove(path))
	}
	return err
}

func (b *bundle) pack(w io.Writer) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, f := range b.files {
		h := &tar.Header{Name: "covey-support/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: b.at, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(t, f.text); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// sudoer gives a file to whom sudo was called by.
func sudoer(f *os.File) error {
	uid, errUID := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, errGID := strconv.Atoi(os.Getenv("SUDO_GID"))
	if os.Geteuid() != 0 || errUID != nil || errGID != nil {
		return nil
	}
	return f.Chown(uid, gid)
}
