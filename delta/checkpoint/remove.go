package checkpoint

import (
	"context"
	"path"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

// Remove deletes all checkpoints of a group: first manifests, then files, so that no manifest names what was deleted.
func Remove(ctx context.Context, st store.Store, group string) error {
	dir := path.Join(Prefix, group) + "/"
	var manifests, files []string
	for info, err := range st.List(ctx, dir) {
		if err != nil {
			return fault.Wrap(fault.ClassOf(err), err, "listing checkpoints of %s", group).At("%s", dir)
		}
		if strings.HasPrefix(path.Base(info.Name), "manifest-") {
			manifests = append(manifests, info.Name)
		} else {
			files = append(files, info.Name)
		}
	}
	for _, name := range append(manifests, files...) {
		if err := st.Delete(ctx, name); err != nil {
			return fault.Wrap(fault.ClassOf(err), err, "deleting checkpoints of %s", group).At("%s", dir)
		}
	}
	return nil
}
