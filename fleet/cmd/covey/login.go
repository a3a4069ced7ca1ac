package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/blob"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

// A session is where the controller is, how to know it, and the token to show.
type session struct {
	URL   string `json:"url"`
	CA    string `json:"ca,omitempty"` // SHA-256 of the CA's certificate; empty: what this machine trusts
	Token string `json:"token"`
}

// maxFile bounds files that are read into memory: tokens, certificates, logins.
const maxFile = 64 << 10

// sessionFile is where a login is kept.
func (a *app) sessionFile() (string, error) {
	if dir := a.env("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "covey", "login.json"), nil
	}
	home := a.env("HOME")
	if home == "" {
		return "", &failure{code: exitFailed, what: "no folder for the login: neither XDG_CONFIG_HOME nor HOME is set", fix: "set HOME"}
	}
	return filepath.Join(home, ".config", "covey", "login.json"), nil
}

// session is the controller's data folder if one is named, else the login.
func (a *app) session() (s session, err error) {
	if a.data != "" {
		return fromData(a.data)
	}
	path, err := a.sessionFile()
	if err != nil {
		return s, err
	}
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, &failure{code: exitRefused, what: "not logged in", fix: "covey login <url>, or --data <folder> on the controller's machine"}
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, &failure{code: exitFailed, what: fmt.Sprintf("read login %s: %v", path, err), fix: "log in again: covey login <url>"}
	}
	return s, nil
}

// fromData reads what a controller leaves in its data folder while it runs.
func fromData(dir string) (s session, err error) {
	fail := func(err error) (session, error) {
		if errors.Is(err, fs.ErrPermission) {
			return s, &failure{code: exitRefused, what: err.Error(), fix: "be the user that the controller runs as, or: covey login <url>"}
		}
		return s, &failure{code: exitUnreachable, what: fmt.Sprintf("no controller runs with the data folder %s: %v", dir, err), fix: "start it: covey-fleet serve --data " + dir}
	}
	b, err := readFile(filepath.Join(dir, "endpoints.json"))
	if err != nil {
		return fail(err)
	}
	var e struct{ API, CA, Token string }
	if err := json.Unmarshal(b, &e); err != nil {
		return fail(err)
	}
	// The names are used, not the places: the folder may be mounted elsewhere.
	ca, err := readFile(filepath.Join(dir, filepath.Base(e.CA)))
	if err != nil {
		return fail(err)
	}
	token, err := readFile(filepath.Join(dir, filepath.Base(e.Token)))
	if errors.Is(err, fs.ErrNotExist) {
		return s, &failure{code: exitRefused, what: "the admin token was moved out of " + dir, fix: fmt.Sprintf("covey login %s --ca %s --token-file <file>", e.API, filepath.Join(dir, "ca.pem"))}
	}
	if err != nil {
		return fail(err)
	}
	hash, err := hashOfPEM(ca)
	return session{URL: e.API, CA: hash, Token: strings.TrimSpace(string(token))}, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return b, err
}

// hashOfPEM is the SHA-256 of the first certificate.
func hashOfPEM(b []byte) (string, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", usage("name the controller's ca.pem", "the CA file holds no certificate")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}

func (a *app) login() *cobra.Command {
	var caFile, caHash, tokenFile string
	c := &cobra.Command{
		Use:   "login <url>",
		Short: "Remember a controller and a token",
		Long: `Remember a controller and a token, in a file that only you can read.

The controller leaves its CA's certificate (ca.pem) and the first admin's token
(admin.token) in its data folder. The token is read from a file, from standard
input, or asked for; it is never an argument, where others could see it.`,
		Example: `  covey login https://192.168.1.10:8443 --ca ca.pem --token-file admin.token
  ssh fleet cat /var/lib/covey-fleet/admin.token | covey login https://fleet:8443 --ca-hash 3f2a…
  covey login --data /var/lib/covey-fleet     # on the controller's machine`,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVar(&caFile, "ca", "", "file with the controller's CA certificate")
	c.Flags().StringVar(&caHash, "ca-hash", "", "SHA-256 of that certificate, hex")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the token; - is standard input")
	c.RunE = do(func(ctx context.Context, args []string) error {
		s, err := a.newSession(args, caFile, caHash, tokenFile)
		if err != nil {
			return err
		}
		var me v1.Controller
		if err := newClient(s).call(ctx, "GET", "/v1/controller", nil, &me); err != nil {
			return err
		}
		path, err := a.sessionFile()
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		if err := save(path, append(b, '\n')); err != nil {
			return fmt.Errorf("keep login: %w", err)
		}
		if a.json {
			return encode(a.out, me)
		}
		fmt.Fprintf(a.out, "logged in to %s (covey-fleet %s) as %s, role %s\n", s.URL, me.Version, me.You.Name, me.You.Role)
		return nil
	})
	return c
}

func save(path string, b []byte) error {
	if err := (blob.OS{}).MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	return blob.WriteFile(blob.OS{}, path, b) // 0600
}

func (a *app) newSession(args []string, caFile, caHash, tokenFile string) (s session, err error) {
	if a.data != "" && len(args) == 0 {
		return fromData(a.data)
	}
	if len(args) != 1 {
		return s, usage("covey login https://host:port", "which controller?")
	}
	u, err := url.Parse(args[0])
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return s, usage("write it like https://fleet.example:8443", "%q is not the address of a controller", args[0])
	}
	s.URL = "https://" + u.Host
	switch {
	case caFile != "" && caHash != "":
		return s, usage("leave one away", "--ca and --ca-hash say the same")
	case caFile != "":
		b, err := readFile(caFile)
		if err != nil {
			return s, usage("", "read CA: %v", err)
		}
		if s.CA, err = hashOfPEM(b); err != nil {
			return s, err
		}
	case caHash != "":
		if s.CA = strings.ToLower(strings.ReplaceAll(caHash, ":", "")); !wire.ValidDigest(s.CA) {
			return s, usage("copy all 64 digits", "--ca-hash is not a SHA-256")
		}
	}
	s.Token, err = a.readToken(tokenFile)
	return s, err
}

func (a *app) readToken(file string) (string, error) {
	var b []byte
	var err error
	switch {
	case file != "" && file != "-":
		b, err = readFile(file)
	case a.ask && file == "":
		fmt.Fprint(a.err, "token: ")
		b, err = a.secret()
		fmt.Fprintln(a.err)
	default:
		b, err = io.ReadAll(io.LimitReader(a.in, maxFile))
	}
	if err != nil {
		return "", usage("", "read token: %v", err)
	}
	token := string(bytes.TrimSpace(b))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", usage("use --token-file, or pipe it in", "there is no token")
	}
	return token, nil
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the controller and the token", Args: cobra.NoArgs,
		Example: "  covey logout",
		RunE: do(func(context.Context, []string) error {
			path, err := a.sessionFile()
			if err == nil {
				if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
			}
			if err != nil {
				return err
			}
			return a.said(map[string]bool{"logged_in": false}, "logged out\n")
		}),
	}
}
