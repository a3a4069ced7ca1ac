package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/release"
)

func (a *app) releaseBuild() *cobra.Command {
	var d release.Defaults
	var out string
	c := &cobra.Command{
		Use: "build <folder|file>", Short: "Make the final form of a release: its files, and a manifest that names every byte", Args: cobra.ExactArgs(1),
		Long: `Make the final form of a release: a folder with its files, and a release.json that names
each by length and hash. The hash of that is the release's digest. It is what check,
sign and push make of a source folder by themselves; made once, it can be handed from
one to the next, and none of them takes it when a bit has changed.`,
		Example: "  covey release build ./birds\n  covey release build ./birds --out /media/usb/birds && sha256sum /media/usb/birds/release.json",
	}
	c.Flags().StringVar(&d.Name, "name", "", "name; default: the file's or folder's")
	c.Flags().StringVar(&d.Version, "version", "", "version, like 1.2.0; default: made from the hash")
	c.Flags().StringVar(&out, "out", "", "folder to make; default: name-version")
	c.RunE = do(func(_ context.Context, args []string) error {
		s, err := read(args[0], d)
		if err != nil {
			return err
		}
		if out == "" {
			out = s.Name + "-" + s.Version
		}
		if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
			return usage("name another folder: --out", "%s is there already", out)
		}
		for _, f := range s.Named() {
			if err := a.copy(out, f, s.path(f)); err != nil {
				return err
			}
		}
		if err := write(out, release.FileName, s.Canonical()); err != nil {
			return err
		}
		made, err := read(out, release.Defaults{}) // as the next one will
		if err != nil {
			return err
		}
		if made.Digest() != s.Digest() {
			return &failure{code: exitFailed, what: "files changed while they were read: build it again"}
		}
		return a.said(map[string]any{"folder": out, "release": s.Name + "@" + s.Version, "digest": s.Digest()},
			"built %s  %s  %s\n", s.Name+"@"+s.Version, s.Digest().Short(), filepath.Join(out, release.FileName))
	})
	return c
}

func (a *app) releaseSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of release.json", Args: cobra.NoArgs,
		Long: `Print the JSON Schema of release.json. An editor that knows it completes keys and marks
mistakes, where the file begins with "$schema": "release.schema.json".`,
		Example: "  covey release schema > release.schema.json",
		RunE: do(func(context.Context, []string) error {
			_, err := a.out.Write(release.Schema)
			return err
		}),
	}
}
