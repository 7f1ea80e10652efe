/* A disc of slits spins in front of a grating. In view v, slit position s is open to the degree
 * code[(s + v) % positions]; its spectrum falls on the detector shifted by s pixels. */

void project(const float *x, const float *code, float *y, int positions, int bands, int views)
{
    int pixels = positions + bands - 1;
    for (int v = 0; v < views; v++)
        for (int s = 0; s < positions; s++) {
            float open = code[(s + v) % positions];
            for (int b = 0; b < bands; b++)
                y[v * pixels + s + b] += open * x[s * bands + b];
        }
}

void backproject(const float *y, const float *code, float *x, int positions, int bands, int views)
{
    int pixels = positions + bands - 1;
    for (int v = 0; v < views; v++)
        for (int s = 0; s < positions; s++) {
            float open = code[(s + v) % positions];
            for (int b = 0; b < bands; b++)
                x[s * bands + b] += open * y[v * pixels + s + b];
        }
}
