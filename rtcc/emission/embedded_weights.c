/* Weights that lie inside the artefact, and so need nothing done. */
static int32_t rtcc_map_weights(struct rtcc_workspace *w)
{
    w->weights = NULL;
    return RTCC_OK;
}

static void rtcc_unmap_weights(struct rtcc_workspace *w) { (void)w; }
