package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/trust"
)

// A listedKey is a key that a repository knows of.
type listedKey struct {
	ID     string    `json:"id"`
	Public string    `json:"public"`
	Signs  []keyRole `json:"signs"` // empty for the controller's, which signs what each device should run
	File   string    `json:"file,omitempty"`
}

// A keyRole is a file that a key counts for.
type keyRole struct {
	Role   string `json:"role"`
	Need   int    `json:"need"`
	Of     int    `json:"of"`
	Signed bool   `json:"signed"` // its newest version, by this key
}

func (a *app) keyList() *cobra.Command {
	var dir, in string
	c := &cobra.Command{
		Use: "list", Short: "List the keys that count: for what, who has signed, and which are here", Args: cobra.NoArgs,
		Long: `List the keys that count: which file each counts for and how many of how many have to
sign it, whether it has signed that file's newest version, and in which file of this
folder the key lies.`,
		Example: "  covey trust key list\n  covey trust key list --trust /media/usb/trust --in ~/keys",
	}
	repositoryFlag(c, &dir)
	c.Flags().StringVar(&in, "in", ".", "folder to look for files of keys in")
	c.RunE = do(func(context.Context, []string) error {
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		list, err := listKeys(r)
		if err != nil {
			return err
		}
		files, err := keyFiles(in)
		if err != nil {
			return usage("", "%s", err)
		}
		var rows [][]string
		for i, k := range list {
			list[i].File = files[k.ID]
			var signs, signed []string
			for _, s := range k.Signs {
				signs = append(signs, fmt.Sprintf("%s (%d of %d)", s.Role, s.Need, s.Of))
				if s.Signed {
					signed = append(signed, s.Role)
				}
			}
			if len(signs) == 0 {
				signs = []string{"what each device should run: the controller"}
			}
			rows = append(rows, []string{k.ID[:8], strings.Join(signs, ", "), strings.Join(signed, ", "), list[i].File})
		}
		if a.json {
			return encode(a.out, list)
		}
		a.table([]string{"KEY", "COUNTS FOR", "HAS SIGNED", "FILE"}, rows)
		return nil
	})
	return c
}

func listKeys(r *trust.Repository) ([]listedKey, error) {
	keys, err := r.Keys()
	if err != nil {
		return nil, err
	}
	roles, err := r.Roles()
	if err != nil {
		return nil, err
	}
	list := []listedKey{}
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		k := listedKey{ID: id, Public: hex.EncodeToString(keys[id]), Signs: []keyRole{}}
		for _, role := range roles {
			if slices.Contains(role.Keys, id) {
				k.Signs = append(k.Signs, keyRole{role.Name, role.Need, len(role.Keys), slices.Contains(role.By, id)})
			}
		}
		list = append(list, k)
	}
	return list, nil
}

// keyFiles are the files of keys in a folder, by the keys' names. A private half goes
// before a public one.
func keyFiles(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, ext := range []string{".pub", ".key"} {
		for _, e := range entries {
			if filepath.Ext(e.Name()) != ext || !e.Type().IsRegular() {
				continue
			}
			if public, err := publicKey(filepath.Join(dir, e.Name())); err == nil {
				files[trust.KeyID(public)] = e.Name()
			}
		}
	}
	return files, nil
}
