package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/blob"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

func (a *app) release() *cobra.Command {
	return group("release", "Make, check, sign and push releases, and look at what was pushed",
		a.releaseInit(), a.releaseBuild(), a.releaseSchema(), a.releaseCheck(), a.releaseDiff(), a.releaseSign(), a.releaseWithdraw(), a.releasePush(), a.releaseList(), a.releaseShow())
}

func (a *app) releasePush() *cobra.Command {
	var d release.Defaults
	var labelFile string
	c := &cobra.Command{
		Use: "push <folder|file>", Short: "Push a release to the controller", Args: cobra.ExactArgs(1),
		Long: `Push a release to the controller: a model file, or a folder with model files, perhaps
labels.txt, perhaps a release.json that says more. Files that the controller has are not sent
again, and a push that was cut goes on where it ended. Nothing changes on any
board until covey set.`,
		Example: `  covey release push mobilenet_v1.tflite --version 1.0.0
  covey release push model.tflite --name doorbell --version 2.1.0 --labels labels.txt
  covey release push ./my-release`,
	}
	c.Flags().StringVar(&d.Name, "name", "", "name; default: the file's or folder's")
	c.Flags().StringVar(&d.Version, "version", "", "version, like 1.2.0; default: made from the hash")
	c.Flags().StringVar(&d.Task, "task", "", "classify, detect or raw; default: from the model")
	c.Flags().StringVar(&labelFile, "labels", "", "text file with a label a line; default: from the model")
	c.RunE = do(func(ctx context.Context, args []string) error {
		s, err := read(args[0], d)
		if err != nil {
			return err
		}
		m, files := s.Manifest, s.files
		if labelFile != "" {
			if err := addLabels(m, files, labelFile); err != nil {
				return err
			}
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		for _, f := range m.Files() {
			if err := a.upload(ctx, c, f, files[wire.Digest(f.SHA256)]); err != nil {
				return err
			}
		}
		var info v1.ReleaseInfo
		resp, err := c.send(ctx, "POST", "/v1/releases", bytes.NewReader(m.Canonical()), int64(len(m.Canonical())))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := decode(resp.Body, &info); err != nil {
			return c.unreachable(err)
		}
		return a.said(info, "pushed %s  %s  %s\n", info.Release, info.Digest.Short(), size(info.Size))
	})
	return c
}

// maxLabels bounds a label file, bytes.
const maxLabels = 1 << 20

// addLabels makes a file from anywhere the labels of a release.
func addLabels(m *release.Manifest, files map[wire.Digest]string, path string) error {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() == 0 || fi.Size() > maxLabels || !fi.Mode().IsRegular() {
		return usage("name a text file with a label a line, at most 1 MB", "%s is no label file", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	f := release.File{Name: filepath.Base(path), SHA256: hex.EncodeToString(sum[:]), Length: int64(len(b))}
	for block := range bytesChunk(b, wire.BlockSize) {
		sum := sha256.Sum256(block)
		f.Blocks = append(f.Blocks, sum[:]...)
	}
	m.Labels = &f
	files[wire.Digest(f.SHA256)] = path
	if err := m.Validate(); err != nil {
		return usage("", "%s", err)
	}
	return nil
}

// bytesChunk yields b in pieces of n bytes, the last one shorter.
func bytesChunk(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			k := min(n, len(b))
			if !yield(b[:k]) {
				return
			}
			b = b[k:]
		}
	}
}

// uploads of a file are tried again when the connection breaks, since they go on
// where they ended.
const (
	maxTries  = 5
	tryPause  = time.Second
	staleLock = v1.CodeBusy
)

// upload sends what the controller lacks of a file.
func (a *app) upload(ctx context.Context, c *client, f release.File, path string) error {
	for try := 1; ; try++ {
		err := a.uploadOnce(ctx, c, f, path)
		var fail *failure
		if err == nil || try == maxTries || ctx.Err() != nil || !errors.As(err, &fail) {
			return err
		}
		p, _ := fail.cause.(v1.Problem)
		// The controller may not have noticed yet that the last connection broke.
		if fail.code != exitUnreachable && p.Code != staleLock {
			return err
		}
		fmt.Fprintf(a.err, "%s; going on in %s\n", clean(fail.what), tryPause*time.Duration(try))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(tryPause * time.Duration(try)):
		}
	}
}

func (a *app) uploadOnce(ctx context.Context, c *client, f release.File, path string) error {
	base := "/v1/blobs/" + f.SHA256
	query := "?length=" + strconv.FormatInt(f.Length, 10)
	resp, err := c.send(ctx, "POST", base+"/check"+query, bytes.NewReader(f.Blocks), int64(len(f.Blocks)))
	if err != nil {
		return err
	}
	var s v1.BlobState
	err = decode(resp.Body, &s)
	resp.Body.Close()
	if err != nil {
		return c.unreachable(err)
	}
	bar := a.bar(f.Name, f.Length)
	defer bar.end()
	if s.Here {
		bar.add(f.Length)
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	from := min(int64(s.From)*wire.BlockSize, f.Length)
	bar.add(from)
	rest := io.NewSectionReader(file, from, f.Length-from)
	body := io.MultiReader(bytes.NewReader(f.Blocks), &counted{rest, bar})
	resp, err = c.send(ctx, "PUT", base+query+"&from="+strconv.Itoa(min(s.From, blob.Blocks(f.Length))), body, int64(len(f.Blocks))+rest.Size())
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (a *app) releaseList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List releases, newest first", Args: cobra.NoArgs,
		Example: "  covey release list",
		RunE: do(func(ctx context.Context, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var list v1.Releases
			if err := c.call(ctx, "GET", "/v1/releases", nil, &list); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, list.Releases)
			}
			if len(list.Releases) == 0 {
				fmt.Fprintln(a.err, "no releases; push one with: covey release push model.tflite")
				return nil
			}
			var rows [][]string
			for _, r := range list.Releases {
				rows = append(rows, []string{r.Release.String(), r.Digest.Short(), r.Task, size(r.Size), a.ago(r.Pushed), r.By})
			}
			a.table([]string{"RELEASE", "DIGEST", "TASK", "SIZE", "PUSHED", "BY"}, rows)
			return nil
		}),
	}
}

func (a *app) releaseShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <release>", Short: "Show a release and its files", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRelease,
		Long:    "Show a release and its files. A release is named name@version, name (the newest),\nor by the beginning of its digest.",
		Example: "  covey release show mobilenet@1.0.0\n  covey release show 3f2a9c01",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var r v1.ReleaseDetail
			if err := c.call(ctx, "GET", "/v1/releases/"+url.PathEscape(args[0]), nil, &r); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, r)
			}
			golden := ""
			if r.Golden > 0 {
				golden = strconv.Itoa(r.Golden)
			}
			a.pairs("release", r.Release.String(), "digest", string(r.Digest), "task", r.Task, "size", size(r.Size), "configuration", r.Config, "labels", r.Labels,
				"results", strings.TrimSpace(r.Kind+" "+labelled(r.Classes)), "golden samples", golden, "parent", r.Parent, "dataset", r.Dataset, "commit", r.Commit,
				"license", r.License, "author", r.Author, "notes", r.Notes, "pushed", a.ago(r.Pushed)+" by "+r.By)
			if len(r.Variants) == 0 {
				return nil
			}
			fmt.Fprintln(a.out)
			var rows [][]string
			for _, v := range r.Variants {
				rows = append(rows, []string{v.File, v.Engine, v.Accelerator, v.Arch, size(v.Length), v.SHA256.Short(), needs(v)})
			}
			a.table([]string{"FILE", "ENGINE", "ACCEL", "ARCH", "SIZE", "SHA256", "NEEDS"}, rows)
			return nil
		}),
	}
}

// needs is what a variant asks of a board, and what it may take there.
func needs(v v1.Variant) string {
	var list []string
	add := func(what, value string) {
		if value != "" {
			list = append(list, what+value)
		}
	}
	add("", v.Quantisation)
	add("runtime ", v.MinRuntime)
	add("board of ", bytesOf(v.MinRAM))
	add("at most ", msOf(v.LatencyMS))
	add("at most ", bytesOf(v.Memory))
	return strings.Join(list, ", ")
}
