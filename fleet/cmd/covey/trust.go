package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/blob"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/trust"
)

func (a *app) trust() *cobra.Command {
	c := group("trust", "Say who may sign what runs",
		group("key", "Keys that sign", a.keyNew(), a.keyShow(), a.keyList()), a.trustInit(), a.trustSign(),
		group("root", "Which keys count", a.rootRotate()), a.trustFamily(), a.trustStatus(), a.trustPush(), a.trustDirector())
	c.Long = `Say who may sign what runs. All of it is done without a controller, best on a machine
that is not on a network: a folder holds what was signed, and goes from one signer
to the next, or lies in a version control.

  covey trust key new ada.key
  covey trust init --releases ada.key,ben.key,eve.key --threshold 2
  covey release sign ./birds --key ada.key       # and the second one on Ben's machine
  covey trust status`
	return c
}

const trustFolder = "trust"

// repositoryFlag names the folder.
func repositoryFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "trust", trustFolder, "folder of what was signed")
}

func (a *app) keyNew() *cobra.Command {
	var open bool
	var passphrase string
	c := &cobra.Command{
		Use: "new <file>", Short: "Make a key", Args: cobra.ExactArgs(1),
		Long: `Make a key, an ed25519 one, in a file that only you can read. A passphrase seals it;
without a terminal it comes from --passphrase-file, which may be /dev/fd/3.`,
		Example: "  covey trust key new ada.key\n  covey trust key new ci.key --no-passphrase",
	}
	c.Flags().BoolVar(&open, "no-passphrase", false, "leave the key unsealed, for a program")
	c.Flags().StringVar(&passphrase, "passphrase-file", "", "file that holds the passphrase")
	c.RunE = do(func(_ context.Context, args []string) error {
		var phrase []byte
		var err error
		if !open {
			if phrase, err = a.passphrase(passphrase, "passphrase of the new key: "); err != nil {
				return err
			}
			if len(phrase) < minPassphrase {
				return usage("take a longer one, or --no-passphrase", "a passphrase has %d characters at least", minPassphrase)
			}
		}
		if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
			return usage("choose another name", "%s is there already", args[0])
		}
		k, err := trust.NewKey()
		if err != nil {
			return err
		}
		b, err := k.Seal(phrase)
		if err == nil {
			err = blob.WriteFile(blob.OS{}, args[0], b)
		}
		if err != nil {
			return err
		}
		return a.keySaid(k.Public(), "made key %.8s in %s\n", trust.KeyID(k.Public()), args[0])
	})
	return c
}

const minPassphrase = 8

func (a *app) keySaid(public ed25519.PublicKey, format string, args ...any) error {
	return a.said(map[string]string{"id": trust.KeyID(public), "public": hex.EncodeToString(public)}, format, args...)
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <file>", Short: "Show a key's public half", Args: cobra.ExactArgs(1),
		Long:    "Show a key's public half, which is what others need of it. No passphrase is asked for,\nand no PIN of a token.",
		Example: "  covey trust key show ada.key > ada.pub\n  covey trust key show 'pkcs11:token=covey;object=ada' > ada.pub",
		RunE: do(func(_ context.Context, args []string) error {
			public, err := publicKey(args[0])
			if err != nil {
				return err
			}
			return a.keySaid(public, "%x\n", []byte(public))
		}),
	}
}

// publicKey reads a key's file, sealed or not, or one of its public half, or asks a token.
func publicKey(path string) (ed25519.PublicKey, error) {
	if inToken(path) {
		return tokenPublic(path)
	}
	b, err := blob.ReadFile(blob.OS{}, path, 16<<10)
	if err != nil {
		return nil, usage("", "%s", err)
	}
	public, err := trust.PublicOf(b)
	if err != nil {
		return nil, usage("", "%s: %s", path, err)
	}
	return public, nil
}

func publicKeys(files []string) ([]ed25519.PublicKey, error) {
	var list []ed25519.PublicKey
	for _, file := range files {
		k, err := publicKey(file)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}

// passphrase reads one from a file, or from a person.
func (a *app) passphrase(path, prompt string) ([]byte, error) {
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usage("", "%s", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		return bytes.TrimRight(b, "\r\n"), err
	}
	if !a.ask {
		return nil, usage("name a --passphrase-file, which may be /dev/fd/3", "nobody is here to type a passphrase")
	}
	fmt.Fprint(a.err, prompt)
	b, err := a.secret()
	fmt.Fprintln(a.err)
	return b, err
}

// A signerFlags is whose signature is wanted.
type signerFlags struct{ key, passphrase, command, public string }

func (f *signerFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "key", "", "file of the key to sign with, may be /dev/fd/3; or pkcs11:token=…;object=…, a key in a token")
	c.Flags().StringVar(&f.passphrase, "passphrase-file", "", "file that holds the key's passphrase, or the token's PIN; may be /dev/fd/4")
	c.Flags().StringVar(&f.command, "signer", "", "program that signs instead: bytes on its standard input, the signature on its output")
	c.Flags().StringVar(&f.public, "signer-key", "", "file of the public key that the program signs with")
	c.MarkFlagsOneRequired("key", "signer")
	c.MarkFlagsMutuallyExclusive("key", "signer")
	c.MarkFlagsRequiredTogether("signer", "signer-key")
}

func (a *app) signer(f signerFlags) (trust.Signer, error) {
	if f.command != "" {
		public, err := publicKey(f.public)
		if err != nil {
			return nil, err
		}
		return &trust.Command{Argv: strings.Fields(f.command), Key: public}, nil
	}
	if inToken(f.key) {
		return a.tokenSigner(f)
	}
	if err := trust.CheckMode(f.key); err != nil {
		return nil, &failure{code: exitRefused, what: err.Error()}
	}
	b, err := blob.ReadFile(blob.OS{}, f.key, 16<<10)
	if err != nil {
		return nil, usage("", "%s", err)
	}
	k, err := trust.OpenKey(b, nil)
	if errors.Is(err, trust.ErrPassphrase) {
		var phrase []byte
		if phrase, err = a.passphrase(f.passphrase, "passphrase of "+f.key+": "); err != nil {
			return nil, err
		}
		k, err = trust.OpenKey(b, phrase)
	}
	if err != nil {
		return nil, &failure{code: exitRefused, what: f.key + ": " + err.Error()}
	}
	return k, nil
}

// A setupFlags is who signs what.
type setupFlags struct {
	releases, root, publish []string
	threshold, rootN        int
	director                string
}

func (f *setupFlags) add(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.releases, "releases", nil, "files of the keys that sign releases, by comma")
	c.Flags().IntVar(&f.threshold, "threshold", 0, "how many of them have to; default 1")
	c.Flags().StringSliceVar(&f.root, "root", nil, "files of the keys that say which keys count; default: those of releases")
	c.Flags().IntVar(&f.rootN, "root-threshold", 0, "how many of them have to; default: as for releases")
	c.Flags().StringSliceVar(&f.publish, "publish", nil, "files of the keys of which one says that it is all so; default: those of releases")
	c.Flags().StringVar(&f.director, "director", "", "file of the controller's public key")
}

// over is a setup with what the flags say.
func (f *setupFlags) over(s trust.Setup) (trust.Setup, error) {
	var errs []error
	keys := func(files []string) []ed25519.PublicKey {
		list, err := publicKeys(files)
		errs = append(errs, err)
		return list
	}
	first := s.Releases.Keys == nil
	if len(f.releases) > 0 {
		s.Releases.Keys = keys(f.releases)
	}
	if f.threshold > 0 || first {
		s.Releases.Threshold = max(1, f.threshold)
	}
	switch {
	case len(f.root) > 0:
		s.Root.Keys = keys(f.root)
	case first:
		s.Root.Keys = s.Releases.Keys
	}
	if f.rootN > 0 {
		s.Root.Threshold = f.rootN
	} else if first {
		s.Root.Threshold = min(s.Releases.Threshold, len(s.Root.Keys))
	}
	switch {
	case len(f.publish) > 0:
		s.Publish.Keys = keys(f.publish)
	case first || len(f.releases) > 0:
		s.Publish.Keys = s.Releases.Keys
	}
	s.Publish.Threshold = 1
	if f.director != "" {
		k, err := publicKey(f.director)
		errs = append(errs, err)
		s.Director = k
	}
	for _, err := range errs {
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (a *app) trustInit() *cobra.Command {
	var f setupFlags
	var dir string
	c := &cobra.Command{
		Use: "init", Short: "Begin: which keys sign releases, and how many of them have to", Args: cobra.NoArgs,
		Long: `Begin: which keys sign releases, and how many of them have to. The private halves are
not needed here. Nothing counts until enough of the root's keys have signed: covey
trust sign.`,
		Example: `  covey trust init --releases ada.key
  covey trust init --releases ada.pub,ben.pub,eve.pub --threshold 2 --publish ci.pub`,
	}
	f.add(c)
	repositoryFlag(c, &dir)
	c.RunE = do(func(context.Context, []string) error {
		if len(f.releases) == 0 {
			return usage("name the keys: --releases ada.key", "nobody signs releases")
		}
		if _, err := os.Lstat(filepath.Join(dir, trust.FileName)); !errors.Is(err, fs.ErrNotExist) {
			return usage("change its keys by covey trust root rotate", "%s holds a trust repository already", dir)
		}
		s, err := f.over(trust.Setup{})
		if err != nil {
			return err
		}
		r, err := trust.Create(s, a.now())
		if err != nil {
			return usage("", "%s", err)
		}
		if err := (blob.OS{}).MkdirAll(dir); err != nil {
			return err
		}
		return a.saved(r, dir, nil)
	})
	return c
}

func (a *app) rootRotate() *cobra.Command {
	var f setupFlags
	var dir string
	c := &cobra.Command{
		Use: "rotate", Short: "Change which keys count", Args: cobra.NoArgs,
		Long: `Change which keys count. What no flag names stays. It is in force when enough of the
old root keys and of the new ones have signed it; what keys have signed that are gone
has to be signed anew.`,
		Example: "  covey trust root rotate --releases ada.pub,ben.pub,new.pub\n  covey trust root rotate --director controller.pub",
	}
	f.add(c)
	repositoryFlag(c, &dir)
	c.RunE = do(func(context.Context, []string) error {
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		s, err := r.Setup()
		if err != nil {
			return err
		}
		if s, err = f.over(s); err != nil {
			return err
		}
		if err := r.Rotate(s, a.now()); err != nil {
			return usage("", "%s", err)
		}
		return a.saved(r, dir, nil)
	})
	return c
}

func (a *app) trustFamily() *cobra.Command {
	var q struct {
		releases, keys []string
		threshold      int
		pilot          bool
	}
	var dir string
	c := &cobra.Command{
		Use: "family <name>", Short: "Give releases of some names to keys of their own", Args: cobra.ExactArgs(1),
		Long: `Give releases of some names to keys of their own: those alone sign them from then on, a
team its models. It counts when the keys that sign releases have signed it. The same
again changes the keys.

With --pilot they sign for the pilot channel alone: what they sign runs on boards whose
own configuration says fleet: {channel: pilot}, and on no others, so that one key may be
enough there. Without --names that is any release.`,
		Example: "  covey trust family wildlife --names birds,cats --keys kim.pub,lee.pub --threshold 2\n  covey trust family ci --pilot --keys ci.pub",
	}
	c.Flags().StringSliceVar(&q.releases, "names", nil, "names of releases, by comma")
	c.Flags().StringSliceVar(&q.keys, "keys", nil, "files of the keys, by comma")
	c.Flags().IntVar(&q.threshold, "threshold", 1, "how many of them have to sign")
	c.Flags().BoolVar(&q.pilot, "pilot", false, "only for the pilot channel")
	repositoryFlag(c, &dir)
	c.RunE = do(func(_ context.Context, args []string) error {
		if q.pilot && len(q.releases) == 0 {
			q.releases = []string{"*"}
		}
		if len(q.releases) == 0 || len(q.keys) == 0 {
			return usage("covey trust family pilot --names pilot-birds --keys ci.pub", "a family has --names and --keys")
		}
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		keys, err := publicKeys(q.keys)
		if err != nil {
			return err
		}
		for i, name := range q.releases {
			if q.pilot {
				q.releases[i] = trust.Pilot(name)
			}
		}
		if err := r.Delegate(args[0], q.releases, trust.Quorum{Keys: keys, Threshold: q.threshold}, a.now()); err != nil {
			return usage("", "%s", err)
		}
		return a.saved(r, dir, nil)
	})
	return c
}

func (a *app) trustSign() *cobra.Command {
	var f signerFlags
	var dir string
	c := &cobra.Command{
		Use: "sign", Short: "Sign all that waits for your key", Args: cobra.NoArgs,
		Long: `Sign all that waits for your key: the root, releases that others have let in, and
where nothing else is missing, that this is all there is. That last signature is good
for 90 days, and is renewed by this command.`,
		Example: "  covey trust sign --key ada.key",
	}
	f.add(c)
	repositoryFlag(c, &dir)
	c.RunE = do(func(ctx context.Context, _ []string) error {
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		done, err := a.sign(ctx, r, f)
		if err != nil {
			return err
		}
		if len(done) == 0 && !a.json {
			fmt.Fprintln(a.out, "nothing waits for this key")
		}
		return a.saved(r, dir, done)
	})
	return c
}

// sign signs with the key of the flags what waits for it.
func (a *app) sign(ctx context.Context, r *trust.Repository, f signerFlags) ([]string, error) {
	s, err := a.signer(f)
	if err != nil {
		return nil, err
	}
	return r.Sign(ctx, s, a.now())
}

// trustState is what status and the commands that change something print.
type trustState struct {
	Fingerprint trust.Fingerprint `json:"fingerprint,omitempty"`
	Complete    bool              `json:"complete"`
	Signed      []string          `json:"signed,omitempty"` // just now
	Roles       []trustRole       `json:"roles"`
}

type trustRole struct {
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Have    int       `json:"have"`
	Need    int       `json:"need"`
	Expires time.Time `json:"expires"`
	Keys    []string  `json:"keys"`
}

func stateOf(r *trust.Repository, done []string) (trustState, error) {
	roles, err := r.Roles()
	if err != nil {
		return trustState{}, err
	}
	s := trustState{Fingerprint: r.FirstFingerprint(), Signed: done}
	for _, role := range roles {
		s.Roles = append(s.Roles, trustRole{role.Name, role.Version, role.Have, role.Need, role.Expires, role.Keys})
	}
	_, err = r.Bundle()
	s.Complete = err == nil
	if errors.Is(err, trust.ErrUnsigned) {
		err = nil
	}
	return s, err
}

// saved writes the repository and says how it stands.
func (a *app) saved(r *trust.Repository, dir string, done []string) error {
	if err := r.Save(dir); err != nil {
		return err
	}
	return a.stands(r, done)
}

// stands says how the repository stands, and what was signed just now.
func (a *app) stands(r *trust.Repository, done []string) error {
	s, err := stateOf(r, done)
	if err != nil {
		return err
	}
	if a.json {
		return encode(a.out, s)
	}
	if len(done) > 0 {
		fmt.Fprintf(a.out, "signed %s\n", strings.Join(done, ", "))
	}
	a.trustPrint(s)
	return nil
}

func (a *app) trustStatus() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "status", Short: "Show what is signed, by whom, and until when", Args: cobra.NoArgs,
		Example: "  covey trust status",
	}
	repositoryFlag(c, &dir)
	c.RunE = do(func(context.Context, []string) error {
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		return a.stands(r, nil)
	})
	return c
}

func (a *app) trustPush() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "push", Short: "Send what was signed to the controller", Args: cobra.NoArgs,
		Long: `Send what was signed to the controller, which hands it on to every board and cannot
change it. Boards that join from now on are told whose signatures count, and install
nothing else. The first push says for good whose root it is.`,
		Example: "  covey trust push",
	}
	repositoryFlag(c, &dir)
	c.RunE = do(func(ctx context.Context, _ []string) error {
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		b, err := r.Bundle()
		if err != nil {
			return &failure{code: exitRefused, what: err.Error()}
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		body := b.Encode()
		resp, err := c.send(ctx, "PUT", "/v1/trust", bytes.NewReader(body), int64(len(body)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var got v1.Trust
		if err := decode(resp.Body, &got); err != nil {
			return c.unreachable(err)
		}
		return a.said(got, "sent; boards that join from now on trust root %.16s…\n", got.Root)
	})
	return c
}

func (a *app) trustPrint(s trustState) {
	var rows [][]string
	for _, r := range s.Roles {
		var keys []string
		for _, k := range r.Keys {
			keys = append(keys, k[:8])
		}
		word := "done"
		if r.Have < r.Need {
			word = "waiting"
		}
		rows = append(rows, []string{r.Role, strconv.FormatInt(r.Version, 10), word, fmt.Sprintf("%d of %d", min(r.Have, r.Need), r.Need), a.left(r.Expires), strings.Join(keys, " ")})
	}
	a.table([]string{"file", "version", "state", "signatures", "good for", "keys"}, rows)
	if s.Fingerprint != "" {
		fmt.Fprintf(a.out, "root %s\n", s.Fingerprint)
	}
	for _, r := range s.Roles {
		if d := r.Expires.Sub(a.now()); d < trust.Soon {
			fmt.Fprintln(a.err, a.paint(yellow, fmt.Sprintf("%s: no board installs anything new after %s; run: covey trust sign", r.Role, r.Expires.Format(time.DateOnly))))
		}
	}
}

// left is how long something is good for.
func (a *app) left(until time.Time) string {
	d := until.Sub(a.now())
	if d < 0 {
		return "expired"
	}
	return plural(int((d.Hours()+12)/24), "day")
}

// releaseSign is covey release sign.
func (a *app) releaseSign() *cobra.Command {
	var f signerFlags
	var d release.Defaults
	var dir string
	var pilot bool
	c := &cobra.Command{
		Use: "sign <folder|file>", Short: "Let a release run, with your signature", Args: cobra.ExactArgs(1),
		Long: `Let a release run, with your signature: what is named is its digest, so that each file
of it is meant to the last bit. Where two have to sign, the second does the same with
the same folder, or signs what the first has let in: covey trust sign.`,
		Example: "  covey release sign ./birds --key ada.key\n  covey release sign ./birds --pilot --key ci.key",
	}
	f.add(c)
	repositoryFlag(c, &dir)
	c.Flags().BoolVar(&pilot, "pilot", false, "for boards of the pilot channel alone: see covey trust family --help")
	c.Flags().StringVar(&d.Name, "name", "", "name; default: the file's or folder's")
	c.Flags().StringVar(&d.Version, "version", "", "version, like 1.2.0; default: made from the hash")
	c.RunE = do(func(ctx context.Context, args []string) error {
		s, err := read(args[0], d)
		if err != nil {
			return err
		}
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		if err := r.Allow(s.target(pilot), a.now()); err != nil {
			return &failure{code: exitRefused, what: err.Error()}
		}
		done, err := a.sign(ctx, r, f)
		if err != nil {
			return err
		}
		return a.saved(r, dir, done)
	})
	return c
}

// target is what is signed of a release, for all boards or for those of the pilot.
func (s *source) target(pilot bool) trust.Target {
	name := trust.TargetName(s.Name, s.Version)
	if pilot {
		name = trust.PilotName(s.Name, s.Version)
	}
	return trust.Target{Name: name, Length: int64(len(s.Canonical())), SHA256: string(s.Digest())}
}

// releaseCheck is covey release check.
func (a *app) releaseCheck() *cobra.Command {
	var d release.Defaults
	var dir string
	var run, pilot bool
	c := &cobra.Command{
		Use: "check <folder|file>", Short: "Check a release before it is pushed", Args: cobra.ExactArgs(1),
		Long: `Check a release before it is pushed: its manifest, its files, its models, and with
--trust whether enough of the right keys have signed it, as a board would see it that
knows the first root alone. With --run its golden samples are run here, on the plain
CPU, as a board does before it switches.`,
		Example: "  covey release check ./birds --run\n  covey release check ./birds --trust trust",
	}
	c.Flags().StringVar(&dir, "trust", "", "folder of what was signed; \"\": signatures are not looked at")
	c.Flags().BoolVar(&run, "run", false, "run the golden samples")
	c.Flags().BoolVar(&pilot, "pilot", false, "as a board of the pilot channel sees it")
	c.Flags().StringVar(&d.Name, "name", "", "name; default: the file's or folder's")
	c.Flags().StringVar(&d.Version, "version", "", "version, like 1.2.0; default: made from the hash")
	c.RunE = do(func(ctx context.Context, args []string) error {
		s, err := read(args[0], d)
		if err != nil {
			return err
		}
		t := s.target(false)
		said := map[string]any{"release": t.Name, "digest": t.SHA256, "length": t.Length, "signed": dir != ""}
		words := "signed: not asked"
		if dir != "" {
			if err := a.signedAs(dir, s, pilot); err != nil {
				return err
			}
			words = "signed: yes"
		}
		if run {
			if err := a.proves(ctx, s); err != nil {
				return err
			}
			said["golden"] = len(s.Golden)
			words += "; " + plural(len(s.Golden), "golden sample") + " answered"
		}
		return a.said(said, "%s  %.12s  good; %s\n", strings.Replace(t.Name, "/", "@", 1), t.SHA256, words)
	})
	return c
}

// proves runs the golden samples of a release.
func (a *app) proves(ctx context.Context, s *source) error {
	if s.plain() < 0 {
		return usage("", "%s has no model that runs here", s.Name)
	}
	t, err := s.tryOut(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	bar := a.bar("golden samples", int64(len(s.Golden)))
	err = t.proves(s, func() { bar.add(1) })
	bar.end()
	if err != nil {
		return &failure{code: exitRefused, what: err.Error()}
	}
	return nil
}

// signedAs is nil when a board that knows the first root would run the release.
func (a *app) signedAs(dir string, release *source, pilot bool) error {
	t := release.target(false)
	r, err := trust.Load(dir)
	if err != nil {
		return err
	}
	b, err := r.Bundle()
	if err != nil {
		return &failure{code: exitRefused, what: err.Error()}
	}
	s, err := trust.New(r.FirstFingerprint()).Update(b, a.now())
	if err != nil {
		return &failure{code: exitRefused, what: err.Error()}
	}
	got, err := s.Find(t.Name, a.now())
	if pilot {
		got, err = s.FindPilot(release.Name, release.Version, a.now())
	}
	switch {
	case err != nil:
		return &failure{code: exitRefused, what: err.Error(), fix: "covey release sign, with enough keys"}
	case got.SHA256 != t.SHA256 || got.Length != t.Length:
		return &failure{code: exitRefused, what: fmt.Sprintf("%s was signed with other files: its digest is %.12s, this one's %.12s", t.Name, got.SHA256, t.SHA256), fix: "give it a new version"}
	}
	return nil
}
