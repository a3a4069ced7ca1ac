package window

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

func must(t testing.TB, cron string, minutes int) Window {
	t.Helper()
	w, err := Parse(wire.Window{Cron: cron, Minutes: minutes})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNext(t *testing.T) {
	paris := zone(t, "Europe/Paris")
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, paris)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct{ cron, from, want string }{
		{"0 2 * * *", "2026-05-04 01:59", "2026-05-04 02:00"},
		{"0 2 * * *", "2026-05-04 02:00", "2026-05-05 02:00"},
		{"*/20 * * * *", "2026-05-04 02:21", "2026-05-04 02:40"},
		{"15-45/30 8 * * *", "2026-05-04 08:16", "2026-05-04 08:45"},
		{"5/25 * * * *", "2026-05-04 08:31", "2026-05-04 08:55"},
		{"0 0 1 1 *", "2026-05-04 00:00", "2027-01-01 00:00"},
		{"0 3 * * sun", "2026-05-04 00:00", "2026-05-10 03:00"},
		{"0 3 * * 7", "2026-05-04 00:00", "2026-05-10 03:00"},
		{"0 3 * * 6-7", "2026-05-04 00:00", "2026-05-09 03:00"},
		{"0 3 * * MON,Wed", "2026-05-04 04:00", "2026-05-06 03:00"},
		{"0 3 13 * fri", "2026-05-04 04:00", "2026-05-08 03:00"},  // either
		{"0 3 */2 * fri", "2026-05-04 04:00", "2026-05-15 03:00"}, // both: an odd friday
		{"0 3 29 feb *", "2026-05-04 04:00", "2028-02-29 03:00"},
		{"30 2 29 3 *", "2026-03-28 04:00", "2026-03-29 03:30"},  // the hour that is leapt over
		{"30 2 25 10 *", "2026-10-25 00:00", "2026-10-25 02:30"}, // the hour that comes twice
	} {
		if got := must(t, c.cron, 1).Next(at(c.from)); !got.Equal(at(c.want)) {
			t.Errorf("%s after %s: got %s, want %s", c.cron, c.from, got, c.want)
		}
	}
}

func TestOpen(t *testing.T) {
	for name, c := range map[string]struct {
		cron    string
		minutes int
		at      string
		open    bool
		until   string
	}{
		"before":              {"0 2 * * *", 90, "01:59:59", false, ""},
		"begins":              {"0 2 * * *", 90, "02:00:00", true, "03:30:00"},
		"last second":         {"0 2 * * *", 90, "03:29:59", true, "03:30:00"},
		"over":                {"0 2 * * *", 90, "03:30:00", false, ""},
		"over midnight":       {"0 23 * * *", 120, "00:30:00", true, "01:00:00"},
		"the earlier of two":  {"*/10 * * * *", 15, "02:12:00", true, "02:15:00"},
		"all the time":        {"* * * * *", 1, "02:12:00", true, "02:13:00"},
		"not on this weekday": {"0 2 * * sun", 90, "02:30:00", false, ""},
	} {
		at, err := time.Parse("2006-01-02 15:04:05", "2026-05-04 "+c.at) // a monday
		if err != nil {
			t.Fatal(err)
		}
		w := must(t, c.cron, c.minutes)
		if got := w.Open(at); got != c.open {
			t.Errorf("%s: open %t", name, got)
		}
		if got := w.Until(at); c.open && got.Format("15:04:05") != c.until {
			t.Errorf("%s: until %s", name, got)
		}
	}
	if (Window{}).Open(time.Now()) {
		t.Error("the zero window is open")
	}
}

func TestRefused(t *testing.T) {
	for cron, why := range map[string]string{
		"":                                     "five fields",
		"* * * *":                              "five fields",
		"* * * * * *":                          "five fields",
		"@daily":                               "five fields",
		"TZ=UTC":                               "five fields",
		"TZ=UTC 0 2 * *":                       "minute",
		"60 * * * *":                           "minute",
		"-1 * * * *":                           "minute",
		"+1 * * * *":                           "minute",
		"1-70 * * * *":                         "minute",
		"9-3 * * * *":                          "minute",
		"*/0 * * * *":                          "minute",
		"*/ * * * *":                           "minute",
		"1,,2 * * * *":                         "minute",
		"000 * * * *":                          "minute",
		"* 24 * * *":                           "hour",
		"* * 0 * *":                            "day of month",
		"* * * 13 *":                           "month",
		"* * * janfeb *":                       "month",
		"* * * anf *":                          "month",
		"* * * * 8":                            "day of week",
		"0 0 30 2 *":                           "no year",
		"0 0 31 4,6,9,11 *":                    "no year",
		"* * * * *" + strings.Repeat(" ", 100): "five fields",
	} {
		_, err := Parse(wire.Window{Cron: cron, Minutes: 60})
		if hal.CodeOf(err) != hal.CodeJSON || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: got %v, want %s", cron, err, why)
		}
	}
	for _, minutes := range []int{-1, 0, maxMinutes + 1} {
		if _, err := Parse(wire.Window{Cron: "0 2 * * *", Minutes: minutes}); err == nil {
			t.Errorf("%d minutes are taken", minutes)
		}
	}
}

// Everywhere and always: what opens is after now and not long after, it is open
// then, and Open and Next agree. No place's leaps make a night fall out.
func TestAcrossTheWorld(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo", "Asia/Tehran"} {
		l := zone(t, name)
		for _, cron := range []string{"0 0 * * *", "30 2 * * *", "*/7 1-3 * * *"} {
			w := must(t, cron, 45)
			from := time.Date(2011, 1, 1, 0, 0, 0, 0, l) // Apia left a day out this year
			for at := from; at.Year() < 2014; {
				next := w.Next(at)
				if !next.After(at) || !w.Open(next) {
					t.Fatalf("%s %s: after %s comes %s, open %t", name, cron, at, next, w.Open(next))
				}
				if gap := next.Sub(at); gap > 26*time.Hour && name != "Pacific/Apia" {
					t.Fatalf("%s %s: nothing between %s and %s", name, cron, at, next)
				}
				at = next.Add(13 * time.Minute)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 2 * * *", "*/5 1-3,7 1 jan mon", "0 0 30 2 *", "TZ=UTC", "59 23 31 12 7"} {
		f.Add(s, 60, int64(1_700_000_000))
	}
	paris := zone(f, "Europe/Paris")
	f.Fuzz(func(t *testing.T, cron string, minutes int, unix int64) {
		w, err := Parse(wire.Window{Cron: cron, Minutes: minutes})
		if err != nil {
			return
		}
		at := time.Unix(unix%(1<<33), 0).In(paris)
		begin := time.Now()
		next := w.Next(at)
		if next.IsZero() && at.Year() < 2090 || !next.IsZero() && !next.After(at) {
			t.Fatalf("%q: after %s comes %s", cron, at, next)
		}
		if until := w.Until(at); !until.IsZero() && !until.After(at) {
			t.Fatalf("%q: open at %s until %s", cron, at, until)
		}
		if took := time.Since(begin); took > time.Second {
			t.Fatalf("%q took %s", cron, took)
		}
	})
}
