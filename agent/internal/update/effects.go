package update

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// prepareTimeout is the longest an Installer may take to open and test a release.
// A driver may compile the model for 20 minutes (TensorRT), in two ways; all else
// has limits of its own, which are shorter.
const prepareTimeout = 45 * time.Minute

func stepID(device wire.DeviceID, execution string, n int) string {
	return fmt.Sprintf("%s/%s/%d", device, execution, n)
}

// doDownload has every file of the candidate.
func (j *journey) doDownload(ctx context.Context) {
	if !lock(ctx, j.l.fetching) {
		return
	}
	defer unlock(j.l.fetching)
	slot, got, err := j.candidate(ctx)
	j.keepCosts()
	switch {
	case err == nil:
		j.download = slot
	case ctx.Err() != nil: // interrupted; what came is kept
	default:
		if got > 0 && hal.CodeOf(err) != hal.CodeHash {
			j.effect.tries = 0 // it gets on, if slowly
		}
		j.effect.add(err)
		j.log.Warn().Err(err).Int("try", j.effect.tries).Dur("again", j.effect.wait()).Msg("download")
		if hal.CodeOf(err) == hal.CodeDiskFull {
			keep := map[wire.Digest]bool{}
			if slot != nil {
				for _, sha := range slot.Files() {
					keep[sha] = true
				}
			}
			j.l.collect(keep) // for the next try
		}
	}
}

// candidate fetches the manifest, picks a variant and fetches its files. got is
// how many blocks came; slot is there as soon as it is known, with an error too.
func (j *journey) candidate(ctx context.Context) (slot *slots.Slot, got int, err error) {
	p := j.pipeline()
	w := p.Exec.Want
	if got, err = j.vouched(ctx, w); err != nil {
		return nil, got, err
	}
	n, err := j.l.have(ctx, file{sha: w.Release, length: w.Length, toll: j.toll()})
	got += n
	if err != nil {
		return nil, got, err
	}
	m, err := j.l.manifest(w.Release)
	if err != nil {
		return nil, got, err
	}
	v, err := j.pick(m)
	if err != nil {
		return nil, got, err
	}
	slot = slotOf(w, m, v)
	if err := j.room(slot, m.FilesOf(v)); err != nil {
		return slot, got, err
	}
	n, err = j.haveAll(ctx, m.FilesOf(v))
	return slot, got + n, err
}

// configEngine stands where a model's slot names its engine.
const configEngine = "config"

// pick chooses the file of a release that this board is to have, and notes why better
// ones do not fit. A configuration has one file.
func (j *journey) pick(m *release.Manifest) (release.Variant, error) {
	if config := j.name == wire.ConfigPipeline; config != (m.Config != nil) {
		what := "a model, and no configuration"
		if m.Config != nil {
			what = "configuration, and goes to the pipeline " + wire.ConfigPipeline
		}
		return release.Variant{}, &hal.Error{Code: hal.CodeTarget, Text: fmt.Sprintf("%s %s is a release of %s", m.Name, m.Version, what)}
	}
	if m.Config != nil {
		return release.Variant{Engine: configEngine, File: *m.Config}, nil
	}
	v, refusals, err := release.Pick(m, j.l.c.Board())
	var refused []wire.Fault
	for _, r := range refusals[:min(len(refusals), maxRefused)] {
		refused = append(refused, wire.Fault{Code: string(r.Code), Text: clip(r.Text)})
	}
	j.mu.Lock()
	j.refused = refused
	j.mu.Unlock()
	return v, err
}

// maxRefused is how many files that do not fit are reported.
const maxRefused = 8

// vouched asks whether a release may run, once what people have signed last is here.
// Where that cannot be had, or does not verify, what they signed before decides.
func (j *journey) vouched(ctx context.Context, w wire.DesiredRelease) (got int, err error) {
	v, ref := j.l.c.Voucher, j.l.trusted()
	if v == nil {
		return 0, nil
	}
	var stale error
	if ref != nil {
		if got, stale = j.learn(ctx, v, *ref); ctx.Err() != nil {
			return got, stale
		}
	}
	err = v.Vouch(w.Name, w.Version, w.Release, w.Length, j.l.Now())
	if err != nil && stale != nil {
		err = stale // the reason behind
	}
	return got, err
}

// learn fetches what people have signed last, and takes it in.
func (j *journey) learn(ctx context.Context, v Voucher, ref wire.DesiredTrust) (got int, err error) {
	if got, err = j.l.have(ctx, file{sha: ref.SHA256, length: ref.Length}); err != nil {
		return got, err
	}
	b, err := j.l.c.Blobs.Read(ref.SHA256, ref.Length)
	if err == nil {
		err = v.Learn(b, j.l.Now())
	}
	if err != nil {
		j.log.Warn().Err(err).Str("code", string(hal.CodeOf(err))).Msg("what the fleet says is signed is not taken in")
	}
	return got, err
}

func slotOf(w wire.DesiredRelease, m *release.Manifest, v release.Variant) *slots.Slot {
	s := &slots.Slot{Release: w.Release, Length: w.Length, Attempt: w.Attempt, Name: m.Name, Version: m.Version,
		Model: wire.Digest(v.File.SHA256), Engine: v.Engine}
	for _, f := range m.FilesOf(v)[1:] {
		s.Blobs = append(s.Blobs, wire.Digest(f.SHA256))
	}
	return s
}

// manifest reads a manifest that is here.
func (l *Loop) manifest(digest wire.Digest) (*release.Manifest, error) {
	b, err := l.c.Blobs.Read(digest, release.MaxManifest)
	if err != nil {
		return nil, err
	}
	return release.Load(b, digest)
}

// haveAll fetches what is missing of files, saying how far it is.
func (j *journey) haveAll(ctx context.Context, files []release.File) (got int, err error) {
	bar := &progress{j: j, p: j.pipeline(), said: time.Now()}
	for _, f := range files {
		bar.total += f.Length
	}
	for _, f := range files {
		n, err := j.l.have(ctx, file{wire.Digest(f.SHA256), f.Length, f.Blocks, bar, j.toll()})
		got += n
		if err != nil {
			return got, fmt.Errorf("file %s: %w", f.Name, err)
		}
	}
	return got, nil
}

// room says whether the board's disk and the order have room for what is still
// missing of files, before the first byte of them is asked for.
func (j *journey) room(slot *slots.Slot, files []release.File) error {
	need, keep := int64(0), map[wire.Digest]bool{slot.Release: true}
	for _, f := range files {
		need += j.l.c.Blobs.Wants(wire.Digest(f.SHA256), f.Length)
		keep[wire.Digest(f.SHA256)] = true
	}
	if err := j.toll().afford(need); err != nil {
		return err
	}
	if j.l.c.Blobs.Room(need) == nil {
		return nil
	}
	j.l.collect(keep)
	return j.l.c.Blobs.Room(need)
}

// A file is a blob that is wanted here.
type file struct {
	sha    wire.Digest
	length int64
	hashes []byte    // of its blocks; nil: not known
	bar    *progress // nil: nobody looks
	toll   *toll     // nil: it is free
}

// have fetches one blob unless it is here and right. got is how many blocks came.
func (l *Loop) have(ctx context.Context, f file) (got int, err error) {
	blobs, sha, length, bar := l.c.Blobs, f.sha, f.length, f.bar
	if blobs.Has(sha) {
		err := blobs.Verify(ctx, sha)
		if err == nil {
			bar.skip(length)
			return 0, nil
		}
		if hal.CodeOf(err) != hal.CodeHashAtRest {
			return 0, err
		}
		if err := blobs.Delete(sha); err != nil {
			return 0, err
		}
	}
	p, err := blobs.Receive(sha, length, f.hashes)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if err := l.reuse(ctx, p, f.hashes); err != nil {
		return 0, err
	}
	m := &meter{Partial: p, bar: bar}
	left := min(length, int64(p.Left())*wire.BlockSize)
	bar.skip(length - left)
	if p.Left() > 0 {
		if err := f.toll.afford(left); err != nil {
			return 0, err
		}
		err := l.c.Fetcher.Fetch(ctx, sha, &tolled{m, ctx, f.toll})
		if p.Left() > 0 && err == nil {
			err = fmt.Errorf("fetch blob %s: %d blocks are still missing", sha.Short(), p.Left())
		}
		if p.Left() > 0 {
			return m.got, err
		}
	}
	return m.got, p.Finish(ctx)
}

// A meter counts the blocks that come in.
type meter struct {
	*blob.Partial
	bar *progress
	got int
}

// WriteBlock takes a block and counts it.
func (m *meter) WriteBlock(n int, data []byte) error {
	before := m.Left()
	if err := m.Partial.WriteBlock(n, data); err != nil {
		return err
	}
	if m.Left() < before {
		m.got++
		m.bar.add(int64(len(data)))
	}
	return nil
}

// progress says how far a download is, at every tenth, but not twice in a second: each
// step is written to the disk at once, and one that is quick would wait for it. nil says
// nothing.
type progress struct {
	j           *journey
	p           slots.Pipeline
	done, total int64
	said        time.Time
}

func (b *progress) skip(n int64) {
	if b != nil {
		b.done += n
	}
}

func (b *progress) add(n int64) {
	if b == nil {
		return
	}
	before := b.done * 10 / max(b.total, 1)
	b.done += n
	if b.done*10/max(b.total, 1) == before || b.done >= b.total || b.p.Over() {
		return
	}
	b.j.keepCosts()
	if time.Since(b.said) >= time.Second {
		b.said = time.Now()
		b.j.emit(b.p, b.done, b.total)
	}
}

// doVerify reads every file of the candidate and hashes it.
func (j *journey) doVerify(ctx context.Context) {
	slot := j.pipeline().Candidate
	_, err := j.files(ctx, slot)
	if err == nil { // again: it may have been here before a power cut
		err = j.l.vouch(slot)
	}
	switch {
	case err == nil:
		j.verified = true
	case ctx.Err() == nil:
		j.effect.add(err)
	}
}

// files checks every byte of a slot and puts the release together. What rotted is
// deleted. Errors: E_HASH_ATREST for what is rotten or gone.
func (j *journey) files(ctx context.Context, slot *slots.Slot) (Files, error) {
	for _, sha := range slot.Files() {
		err := j.l.c.Blobs.Verify(ctx, sha)
		if hal.CodeOf(err) == hal.CodeHashAtRest {
			return Files{}, errors.Join(err, j.l.c.Blobs.Delete(sha))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return Files{}, &hal.Error{Code: hal.CodeHashAtRest, Text: fmt.Sprintf("file %s… of %s %s is gone", sha.Short(), slot.Name, slot.Version)}
		}
		if err != nil {
			return Files{}, err
		}
	}
	m, err := j.l.manifest(slot.Release)
	if err != nil {
		return Files{}, err
	}
	if m.Config != nil && slot.Engine == configEngine {
		return Files{Slot: *slot, Manifest: m, blobs: j.l.c.Blobs}, nil
	}
	for _, v := range m.Variants {
		if v.File.SHA256 == string(slot.Model) && v.Engine == slot.Engine {
			return Files{Slot: *slot, Manifest: m, Variant: v, blobs: j.l.c.Blobs}, nil
		}
	}
	return Files{}, &hal.Error{Code: hal.CodeManifest, Text: fmt.Sprintf("release %s… has no variant %s…", slot.Release.Short(), slot.Model.Short())}
}

// prepare opens a slot's release.
func (j *journey) prepare(ctx context.Context, slot *slots.Slot, trial bool) (Warm, error) {
	f, err := j.files(ctx, slot)
	if err != nil {
		return nil, err
	}
	f.Trial = trial
	if trial { // what ran before waits for nobody
		j.budget(f)
		if !lock(ctx, j.l.testing) {
			return nil, context.Cause(ctx)
		}
		defer unlock(j.l.testing)
	}
	late := &hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("%s %s was not ready after %s", slot.Name, slot.Version, prepareTimeout)}
	timed, cancel := context.WithTimeoutCause(ctx, prepareTimeout, late)
	defer cancel()
	w, err := j.l.c.Installer.Prepare(timed, j.name, f)
	var stopped *Stopped
	switch {
	case errors.As(err, &stopped):
		j.stops(stopped.Since)
	case err == nil && !w.Since().IsZero():
		j.stops(w.Since())
	}
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && timed.Err() != nil {
		err = late
	}
	return w, err
}

// stops notes that nothing runs, since a time.
func (j *journey) stops(since time.Time) {
	j.running, j.stopped = "", since
	j.l.c.Changed()
}

// doSelfTest opens and tests the candidate.
func (j *journey) doSelfTest(ctx context.Context) {
	slot := j.pipeline().Candidate
	err := j.stillVouched(ctx, slot)
	var w Warm
	if err == nil {
		w, err = j.prepare(ctx, slot, true)
	}
	switch {
	case err == nil:
		j.warm, j.effect = w, failures{}
	case ctx.Err() == nil:
		j.effect.add(err)
		j.log.Warn().Err(err).Int("try", j.effect.tries).Msg("self-test")
	}
}

// learnTimeout is how long a candidate that is here waits for what people have signed
// last. Without a link, what they signed before decides.
const learnTimeout = 30 * time.Second

// stillVouched asks again whether a candidate may run: it may have waited for weeks.
func (j *journey) stillVouched(ctx context.Context, slot *slots.Slot) error {
	v, ref := j.l.c.Voucher, j.l.trusted()
	if v == nil {
		return nil
	}
	timed, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	if ref != nil && lock(timed, j.l.fetching) { // another pipeline's download may take its time
		_, _ = j.learn(timed, v, *ref) // it says so itself
		unlock(j.l.fetching)
	}
	return j.l.vouch(slot)
}

// vouch asks whether a slot's release may run, by what is known to be signed.
func (l *Loop) vouch(slot *slots.Slot) error {
	if l.c.Voucher == nil {
		return nil
	}
	return l.c.Voucher.Vouch(slot.Name, slot.Version, slot.Release, slot.Length, l.Now())
}

// doSwitch puts the candidate to work. Its results count from before the switch
// on, so that none is missed; the old release's have another digest.
func (j *journey) doSwitch(ctx context.Context) {
	slot := j.pipeline().Candidate
	j.beginTrial()
	accel := j.warm.Info().Accelerator
	err := j.l.vouch(slot)
	if err == nil {
		err = ctx.Err() // the last moment at which a changed wish changes nothing
	}
	if err == nil {
		err = j.l.c.Installer.Switch(ctx, j.name, j.warm)
	}
	switch {
	case err == nil:
		j.effect = failures{}
		j.runs(slot, accel)
	case ctx.Err() == nil:
		j.endTrial()
		j.effect.add(err)
	default:
		j.endTrial()
	}
}

// runs notes that a release runs now, and what on.
func (j *journey) runs(slot *slots.Slot, accel hal.Accelerator) {
	j.warm, j.restore = nil, failures{}
	j.running = ""
	if slot != nil {
		j.running = slot.Release
	}
	if !j.stopped.IsZero() {
		gap := time.Since(j.stopped)
		j.stopped, j.gap = time.Time{}, j.gap+gap
		j.log.Warn().Str("release", string(j.running)).Dur("gap", gap).Msg("cold swap: the board has no room for two models, so nothing ran meanwhile")
	}
	j.mu.Lock()
	j.accel, j.trouble = accel, nil
	j.mu.Unlock()
	j.l.c.Changed()
}

// beginTrial counts what runs of the candidate come to.
func (j *journey) beginTrial() {
	p := j.pipeline()
	vitals, temp := j.l.c.Vitals(j.name), j.l.c.Temperature()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trial, j.since, j.score, j.enough = p.Candidate.Release, time.Now(), Probation{}, enough(j.limits(p))
	j.record.freeze(p.Active, p.Candidate.Release, vitals, temp, p.Exec.Evidence)
}

func (j *journey) endTrial() {
	j.mu.Lock()
	j.trial, j.since, j.score = "", time.Time{}, Probation{}
	j.mu.Unlock()
}

// doRestore opens the active release and puts it to work, or nothing where
// nothing is active.
func (j *journey) doRestore(ctx context.Context) {
	slot := j.pipeline().Active
	err := j.putBack(ctx, slot)
	if err == nil || ctx.Err() != nil {
		return
	}
	j.restore.add(err)
	j.mu.Lock()
	j.trouble = FaultOf(err)
	j.mu.Unlock()
	j.log.Error().Err(err).Int("try", j.restore.tries).Dur("again", j.restore.wait()).Msg("active release does not open")
	j.l.c.Changed()
}

func (j *journey) putBack(ctx context.Context, slot *slots.Slot) error {
	j.discard() // memory is for what ran before
	if slot == nil {
		if err := j.l.c.Installer.Switch(ctx, j.name, nil); err != nil {
			return err
		}
		j.endTrial()
		j.runs(nil, "")
		return nil
	}
	w, err := j.prepare(ctx, slot, false)
	if err != nil {
		return err
	}
	accel := w.Info().Accelerator
	if err := j.l.c.Installer.Switch(ctx, j.name, w); err != nil {
		return errors.Join(err, w.Close())
	}
	j.endTrial()
	j.runs(slot, accel)
	return nil
}

// doRepair fetches again what rotted of the active release.
func (j *journey) doRepair(ctx context.Context) {
	if !lock(ctx, j.l.fetching) {
		return
	}
	defer unlock(j.l.fetching)
	err := j.repair(ctx, j.pipeline().Active)
	switch {
	case err == nil:
		j.restore = failures{}
	case ctx.Err() == nil:
		j.restore.add(j.restore.err) // still rotten
		j.log.Warn().Err(err).Msg("repair")
	}
}

func (j *journey) repair(ctx context.Context, slot *slots.Slot) error {
	if _, err := j.l.have(ctx, file{sha: slot.Release, length: slot.Length}); err != nil {
		return err
	}
	m, err := j.l.manifest(slot.Release)
	if err != nil {
		return err
	}
	for _, f := range m.Files() {
		for _, sha := range slot.Files() {
			if f.SHA256 != string(sha) {
				continue
			}
			if _, err := j.l.have(ctx, file{sha: sha, length: f.Length, hashes: f.Blocks}); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock takes a turn, unless ctx ends first.
func lock(ctx context.Context, turn chan struct{}) bool {
	select {
	case turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func unlock(turn chan struct{}) { <-turn }
