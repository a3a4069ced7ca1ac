package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cardSize is of the card that wear lends to the agent, bytes.
const cardSize = 256 << 20

// wear lets a day pass in an idle house, with every commit of the outbox a real one, on
// a file system of its own, and says what was written: by the database, and in all.
func (b *bench) wear(ctx context.Context) ([]row, error) {
	test := filepath.Join(b.work, "wear.test")
	if err := quietly(ctx, "go", "test", "-c", "-o", test, "./agent/internal/uplink"); err != nil {
		return nil, err
	}
	c, noCard := newCard(ctx, b.work)
	dir := b.work
	if noCard == nil {
		defer c.close()
		dir = c.dir
	}
	before := c.written(ctx)
	cmd := exec.CommandContext(ctx, test, "-test.run", "^TestWear$", "-test.v")
	cmd.Env = append(os.Environ(), "COVEY_WEAR_HOURS=24", "TMPDIR="+dir)
	cmd.Dir = "agent/internal/uplink"
	out, err := cmd.CombinedOutput()
	var day float64
	if _, text, ok := strings.Cut(string(out), "wear: "); err == nil && ok {
		_, err = fmt.Sscanf(text, "%f MB a day", &day)
	}
	if err != nil || day == 0 {
		return nil, fmt.Errorf("no figure (%v): %s", err, out)
	}
	rows := []row{measured("an idle house: what the outbox writes in a day", "MB", []float64{day}, atMost(50))}
	name := "an idle house: what reaches the card in a day, the file system's own with it"
	if noCard != nil {
		return append(rows, row{Name: name, Verdict: "not measured: " + noCard.Error()}), nil
	}
	return append(rows, measured(name, "MB", []float64{(c.written(ctx) - before) / 1e6}, atMost(50))), nil
}

// A card is a file with ext4 on it, mounted. Root can make one.
type card struct{ dir, device string }

func newCard(ctx context.Context, work string) (*card, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("mounting needs root")
	}
	c := &card{dir: filepath.Join(work, "card")}
	image := filepath.Join(work, "card.img")
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(cardSize); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, err
	}
	if err := quietly(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "losetup", "--find", "--show", image).Output()
	if err != nil {
		return nil, fmt.Errorf("losetup: %w", err)
	}
	c.device = strings.TrimSpace(string(out))
	if err := quietly(ctx, "mount", c.device, c.dir); err != nil {
		exec.Command("losetup", "-d", c.device).Run()
		return nil, err
	}
	return c, nil
}

// written is how many bytes have reached the card so far. nil has none.
func (c *card) written(ctx context.Context) float64 {
	if c == nil {
		return 0
	}
	exec.CommandContext(ctx, "sync", "-f", c.dir).Run()
	text, err := os.ReadFile("/sys/block/" + filepath.Base(c.device) + "/stat")
	if err != nil {
		return 0
	}
	var sectors float64
	if fields := strings.Fields(string(text)); len(fields) > 6 {
		fmt.Sscan(fields[6], &sectors)
	}
	return sectors * 512
}

func (c *card) close() {
	exec.Command("umount", c.dir).Run()
	exec.Command("losetup", "-d", c.device).Run()
}

// quietly runs a program and shows what it says only when it fails.
func quietly(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
