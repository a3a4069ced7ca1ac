package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/registry"
)

type empty struct{}

type body[T any] struct{ Body T }

func ok[T any](v T) (*body[T], error) { return &body[T]{v}, nil }

// system registers what is about the controller itself.
func (a *API) system() {
	type health struct {
		Status string `json:"status" example:"ok"`
	}
	add(a, huma.Operation{OperationID: "health", Method: http.MethodGet, Path: "/healthz", Summary: "Whether the controller runs", Tags: []string{"system"}}, open,
		func(context.Context, *empty) (*body[health], error) { return ok(health{"ok"}) })
	add(a, huma.Operation{OperationID: "ready", Method: http.MethodGet, Path: "/readyz", Summary: "Whether the controller can do its work", Tags: []string{"system"}}, open,
		func(context.Context, *empty) (*body[health], error) {
			if a.cfg.Ready != nil {
				if err := a.cfg.Ready(); err != nil {
					a.cfg.Log.Warn().Err(err).Msg("not ready")
					return nil, problem(http.StatusServiceUnavailable, "E_NOT_READY", "see the controller's log", "the controller is not ready")
				}
			}
			return ok(health{"ok"})
		})
	add(a, huma.Operation{OperationID: "controller", Method: http.MethodGet, Path: "/v1/controller", Summary: "Who answers, and as whom it knows you", Tags: []string{"system"}}, viewer,
		func(ctx context.Context, _ *empty) (*body[v1.Controller], error) {
			p := principal(ctx)
			return ok(v1.Controller{
				Version: a.cfg.Version, URL: a.cfg.URL, MQTT: a.cfg.MQTT, CA: a.cfg.Auth.CAHash(),
				You: v1.You{Name: p.Name, Role: string(p.Role)},
			})
		})
	a.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(a.openapi)
	})
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		write(w, notFound("see /openapi.json for what there is", "there is no %.10s %.200q", r.Method, r.URL.Path))
	})
}

// metrics adds the API's own figures and serves all of them.
func (a *API) metrics() error {
	a.seen = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "covey_http_seconds", Help: "Requests of the REST API by what was asked and the status.",
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
	}, []string{"route", "status"})
	cs := []prometheus.Collector{
		a.seen, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		fleetCollector{a.cfg.Registry},
	}
	for _, c := range cs {
		if err := a.cfg.Metrics.Register(c); err != nil {
			return err
		}
	}
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(a.cfg.Metrics, promhttp.HandlerOpts{}))
	return nil
}

func (a *API) observe(r *http.Request, status int, d time.Duration) {
	_, route := a.mux.Handler(r) // the pattern, so that ids make no series
	a.seen.WithLabelValues(route, strconv.Itoa(status)).Observe(d.Seconds())
}

// A fleetCollector counts when it is asked.
type fleetCollector struct{ r *registry.Registry }

var (
	descDevices = prometheus.NewDesc("covey_devices", "Devices by state.", []string{"state"}, nil)
	descTwins   = prometheus.NewDesc("covey_duplicate_identities", "Devices that two machines claim to be.", nil, nil)
	descResults = prometheus.NewDesc("covey_results_total", "Results taken in since the start.", nil, nil)
	descAgain   = prometheus.NewDesc("covey_results_duplicate_total", "Results that came again.", nil, nil)
	descBad     = prometheus.NewDesc("covey_messages_bad_total", "Messages of devices that were malformed.", nil, nil)
	descBlocks  = prometheus.NewDesc("covey_block_bytes_total", "Bytes of releases handed out over MQTT.", nil, nil)
	descTrust   = prometheus.NewDesc("covey_trust_expires_timestamp_seconds", "When signatures expire first; from then on no board installs anything new.", nil, nil)
	descLate    = prometheus.NewDesc("covey_block_requests_late_total", "Requests for blocks that were dropped because too many waited.", nil, nil)
)

// Describe names the metrics.
func (c fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descDevices, descTwins, descResults, descAgain, descBad, descBlocks, descLate, descTrust} {
		ch <- d
	}
}

// Collect reads the registry.
func (c fleetCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Stats()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(descDevices, s.Online, "online")
	gauge(descDevices, s.Devices-s.Online, "away")
	gauge(descTwins, s.DuplicateIdentities)
	counter(descResults, s.Results)
	counter(descAgain, s.DuplicateResults)
	counter(descBad, s.Bad)
	counter(descBlocks, s.BlockBytes)
	counter(descLate, s.BlockRequestsLate)
	if set, _, err := c.r.Trust(); err == nil { // in a fleet in which people sign
		ch <- prometheus.MustNewConstMetric(descTrust, prometheus.GaugeValue, float64(set.Until("targets").At.Unix()))
	}
}
