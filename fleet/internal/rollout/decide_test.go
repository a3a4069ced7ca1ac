package rollout

import (
	"testing"

	"github.com/covey-edge/covey/fleet/wire"
)

const (
	digestOne = wire.Digest("1111111111111111111111111111111111111111111111111111111111111111")
	digestTwo = wire.Digest("2222222222222222222222222222222222222222222222222222222222222222")
)

func underWay() Rollout {
	return Rollout{ID: "ro-1", Release: Release{Digest: digestTwo, Name: "m", Version: "2.0.0"}, Pipeline: "cam", State: wire.RolloutRunning}
}

func reported(rev uint64, p wire.ReportedPipeline) wire.Reported {
	return wire.Reported{V: 1, Rev: rev, Pipelines: map[string]wire.ReportedPipeline{"cam": p}}
}

func TestStepsAreHints(t *testing.T) {
	x := Execution{ID: "ex-1", Rev: 1, State: wire.Queued}
	step := func(n int, s wire.ExecState) wire.ExecStep {
		return wire.ExecStep{Execution: "ex-1", Release: digestTwo, N: n, State: s}
	}
	for _, tc := range []struct {
		name  string
		steps []wire.ExecStep
		want  wire.ExecState
	}{
		{"forward", []wire.ExecStep{step(1, wire.Downloading), step(2, wire.Verifying)}, wire.Verifying},
		{"out of order", []wire.ExecStep{step(2, wire.Verifying), step(1, wire.Downloading)}, wire.Verifying},
		{"twice", []wire.ExecStep{step(1, wire.Downloading), step(1, wire.Verifying)}, wire.Downloading},
		{"success is not theirs to give", []wire.ExecStep{step(1, wire.Probation), step(2, wire.Succeeded)}, wire.Probation},
		{"failure is", []wire.ExecStep{step(1, wire.RolledBack), step(2, wire.Downloading)}, wire.RolledBack},
		{"of another execution", []wire.ExecStep{{Execution: "ex-2", Release: digestTwo, N: 1, State: wire.Failed}}, wire.Queued},
		{"of another release", []wire.ExecStep{{Execution: "ex-1", Release: digestOne, N: 1, State: wire.Failed}}, wire.Queued},
		{"of no state", []wire.ExecStep{step(1, "DANCING")}, wire.Queued},
	} {
		got := x
		for _, s := range tc.steps {
			got = Step(underWay(), got, s)
		}
		if got.State != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got.State, tc.want)
		}
	}
	gap := step(1, wire.Probation)
	gap.GapMS = 3200
	if got := Step(underWay(), Step(underWay(), x, gap), step(2, wire.Succeeded)); got.GapMS != 3200 {
		t.Errorf("a cold swap is forgotten: %+v", got)
	}
}

func complains(rep wire.Reported, code string) wire.Reported {
	rep.Error = &wire.Fault{Code: code}
	return rep
}

func TestReportedIsTheTruth(t *testing.T) {
	two, one := &wire.ReportedSlot{Release: digestTwo}, &wire.ReportedSlot{Release: digestOne, Name: "m", Version: "1.0.0"}
	x := Execution{ID: "ex-1", Rev: 5, State: wire.Probation}
	with := func(s wire.ExecState) Execution { y := x; y.State = s; return y }
	for _, tc := range []struct {
		name string
		x    Execution
		rep  wire.Reported
		want wire.ExecState
		code string
	}{
		{"success", x, reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.Succeeded, Active: two}), wire.Succeeded, ""},
		{"success of another release", x, reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.Succeeded, Active: one}), wire.Failed, CodeDigest},
		{"success of nothing", x, reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.AlreadyInstalled}), wire.Failed, CodeDigest},
		{"runs it, but does not say so", x, reported(5, wire.ReportedPipeline{Active: two}), wire.Probation, ""},
		{"on its way", x, reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.SelfTesting}), wire.SelfTesting, ""},
		{"not seen yet", x, reported(4, wire.ReportedPipeline{Pinned: true}), wire.Probation, ""},
		{"pinned", x, reported(5, wire.ReportedPipeline{Pinned: true}), wire.Rejected, CodePinned},
		{"no pipeline", x, wire.Reported{V: 1, Rev: 5}, wire.Rejected, CodePipeline},
		{"desired not accepted", x, wire.Reported{V: 1, Rev: 5, Error: &wire.Fault{Code: "E_JSON"}}, wire.Rejected, CodeDesired},
		{"another pipeline of the document is not there", x, complains(reported(5, wire.ReportedPipeline{Execution: "ex-0"}), "E_PIPELINE"), wire.Probation, ""},
		{"nor is this one", x, complains(wire.Reported{V: 1, Rev: 5}, "E_PIPELINE"), wire.Rejected, CodePipeline},
		{"not asked yet", Execution{ID: "ex-1", State: wire.Queued}, wire.Reported{V: 1, Rev: 5}, wire.Queued, ""},
		{"what is over stays over", with(wire.Superseded), reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.Downloading}), wire.Superseded, ""},
		{"even if it was done after all: it is asked to go back", with(wire.Canceled), reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.Succeeded, Active: two}), wire.Canceled, ""},
	} {
		got := Reported(underWay(), tc.x, tc.rep)
		code := ""
		if got.Fault != nil {
			code = got.Fault.Code
		}
		if got.State != tc.want || code != tc.code {
			t.Errorf("%s: %s %q, want %s %q", tc.name, got.State, code, tc.want, tc.code)
		}
	}
}

func TestAttemptRisesAfterFailure(t *testing.T) {
	wishTwo := &wire.DesiredRelease{Release: digestTwo, Execution: "ex-1", Attempt: 3}
	quarantined := reported(5, wire.ReportedPipeline{})
	quarantined.Quarantine = []wire.Quarantined{{Release: digestOne, Attempt: 9}, {Release: digestTwo, Attempt: 4}}
	failed := reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.TimedOut})
	done := reported(5, wire.ReportedPipeline{Execution: "ex-1", State: wire.Succeeded})
	for _, tc := range []struct {
		name string
		wish *wire.DesiredRelease
		rep  *wire.Reported
		want int
	}{
		{"never asked", nil, nil, 1},
		{"asked already", wishTwo, nil, 3},
		{"done already", wishTwo, &done, 3},
		{"failed", wishTwo, &failed, 4},
		{"quarantined", nil, &quarantined, 5},
		{"another was asked", &wire.DesiredRelease{Release: digestOne, Attempt: 7}, nil, 1},
	} {
		if got := attempt("cam", digestTwo, tc.wish, tc.rep); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}
